"""Names that YAML would read as a number, a truth value, nothing or a date stay text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from helm_rig import MONITORING, Rendered, Values, refusal, render


def called(name: str) -> Values:
    """Values in which all that has a name is called ``name``."""
    image = {"repository": name, "tag": name}
    return {
        "nameOverride": name,
        "image": image,
        "worker": {"image": image},
        "imagePullSecrets": [{"name": name}],
        "watchNamespaces": [name],
        "secret": {"existing": name},
        "serviceAccount": {"name": name, "annotations": {"owner": name}},
        "operator": {"priorityClassName": name, "podLabels": {"team": name}},
        "activator": {"priorityClassName": name, "podAnnotations": {"owner": name}},
        "networkPolicy": {"enabled": True, "packNamespaces": [name]},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"team": name}},
            "podMonitor": {"enabled": True},
            "rules": {"enabled": True},
            "dashboards": {"enabled": True, "namespace": name},
        },
        "commonLabels": {"part": name},
    }


def release(name: str, **values: object) -> Rendered:
    """As far as that may be a release's name, which begins with a letter."""
    own = name if name[0].isalpha() else f"r-{name}"
    return render({**called(name), **values}, "--namespace", name, *MONITORING, release=own)


def leaves(found: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(found, dict):
        for key, value in found.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(found, list):
        for at, value in enumerate(found):
            yield from leaves(value, f"{path}[{at}]")
    else:
        yield path, found


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    """With a name that YAML reads as text, written however it is."""
    return dict(leaves(release("plain").objects))


@pytest.mark.parametrize("name", ["1234", "12", "no", "null", "2024-01-01"])
def test_whatever_is_text_with_a_plain_name_is_text_with_any(
    name: str, plain: dict[str, Any]
) -> None:
    found = dict(leaves(release(name).objects))
    assert found.keys() == plain.keys()
    other = {path: value for path, value in found.items() if type(value) is not type(plain[path])}
    assert other == {}


def test_a_made_secret_and_account_have_text_for_names_too() -> None:
    found = release("null", serviceAccount={}, secret={}).objects
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert ("ServiceAccount", "null") in names
    assert ("Secret", "null-key") in names
    assert [each for each in names if not isinstance(each[1], str)] == []


@pytest.mark.parametrize(
    ("name", "objects"), [("2fast", "2fast-slm-operator"), ("slm-operator.eu", "slm-operator.eu")]
)
def test_a_release_whose_services_could_not_be_called_so_is_refused(
    name: str, objects: str
) -> None:
    said = refusal({}, release=name)
    assert f"would be called {objects}, which a Service cannot be" in said
    assert "set fullnameOverride" in said


def test_another_name_mends_that() -> None:
    found = render({"fullnameOverride": "fast"}, release="2fast")
    assert found.names("Service") == ["fast-activator", "fast-metrics"]


def test_a_name_of_objects_that_begins_with_a_digit_is_refused() -> None:
    assert "at '/fullnameOverride'" in refusal({"fullnameOverride": "2fast"})
