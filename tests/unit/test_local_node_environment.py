"""What the local node gives to a container's process."""

import pytest

from slm_dev.local_node.environment import (
    ConfigError,
    LocalImage,
    Objects,
    expand,
    find_image,
    referenced_objects,
    render_command,
    render_environment,
)
from slm_dev.local_node.spec import (
    ContainerSpec,
    FromAllKeys,
    FromField,
    FromKey,
    Literally,
    PodSpec,
)

POD = PodSpec("ns", "pack-0", "uid-1", node_name="local", labels={"app.io/name": "chat"})
ADDRESS = "127.64.0.1"


def render(*env: Literally | FromField | FromKey, objects: Objects | None = None) -> dict[str, str]:
    return render_environment(POD, ContainerSpec("main", "image", env=env), objects or {}, ADDRESS)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("--x=$(A)$(B)", "--x=12"),
        ("$(UNKNOWN)", "$(UNKNOWN)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $", "$A ${A} $"),
        ("$$", "$"),
        ("$(A", "$(A"),
    ],
)
def test_references_are_replaced_as_kubernetes_does(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expanded


def test_a_value_may_refer_to_earlier_variables_only() -> None:
    rendered = render(
        Literally("FIRST", "$(SECOND)"), Literally("SECOND", "2"), Literally("THIRD", "$(SECOND)")
    )
    assert rendered == {"FIRST": "$(SECOND)", "SECOND": "2", "THIRD": "2"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "pack-0"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "uid-1"),
        ("metadata.labels['app.io/name']", "chat"),
        ("metadata.labels['absent']", ""),
        ("spec.nodeName", "local"),
        ("status.podIP", ADDRESS),
    ],
)
def test_fields_of_the_pod(path: str, value: str) -> None:
    assert render(FromField("X", path)) == {"X": value}


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ConfigError, match=r"spec\.hostname is not supported"):
        render(FromField("X", "spec.hostname"))


def test_keys_of_secrets_and_configmaps() -> None:
    rendered = render(
        FromKey("TOKEN", "secret", "keys", "token"),
        FromKey("MODE", "configmap", "keys", "mode"),
        objects={("secret", "keys"): {"token": "t"}, ("configmap", "keys"): {"mode": "m"}},
    )
    assert rendered == {"TOKEN": "t", "MODE": "m"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, 'secret "keys" not found'),
        ({"other": "x"}, "couldn't find key token in Secret ns/keys"),
    ],
)
def test_what_is_missing_is_named_unless_optional(
    data: dict[str, str] | None, message: str
) -> None:
    objects: Objects = {("secret", "keys"): data}
    with pytest.raises(ConfigError) as caught:
        render(FromKey("TOKEN", "secret", "keys", "token"), objects=objects)
    assert (caught.value.reason, caught.value.message) == ("CreateContainerConfigError", message)

    optional = FromKey("TOKEN", "secret", "keys", "token", optional=True)
    assert render(optional, objects=objects) == {}


def test_all_keys_come_first_and_env_wins() -> None:
    container = ContainerSpec(
        "main",
        "image",
        env=(Literally("P_A", "env:$(P_B)"),),
        env_from=(FromAllKeys("P_", "configmap", "all"),),
    )
    objects: Objects = {("configmap", "all"): {"A": "1", "B": "2", "no=name": "3"}}

    assert referenced_objects(container) == {("configmap", "all")}
    assert render_environment(POD, container, objects, ADDRESS) == {"P_A": "env:2", "P_B": "2"}


def test_the_command_line_is_command_and_arguments_expanded() -> None:
    container = ContainerSpec("main", "image", command=("run",), args=("--port=$(PORT)",))
    assert render_command(container, {"PORT": "80"}) == ("run", "--port=80")


def test_a_container_without_a_command_is_refused() -> None:
    with pytest.raises(ConfigError, match="give the container a command"):
        render_command(ContainerSpec("main", "image", args=("x",)), {})


@pytest.mark.parametrize(
    ("policy", "reason"), [("Never", "ErrImageNeverPull"), ("IfNotPresent", "ImagePullBackOff")]
)
def test_an_unknown_image_is_refused_with_the_known_ones(policy: str, reason: str) -> None:
    container = ContainerSpec("main", "other", pull_policy=policy)
    with pytest.raises(ConfigError, match="it has: engine, worker") as caught:
        find_image(container, {"worker": LocalImage({}), "engine": LocalImage({})})
    assert caught.value.reason == reason
