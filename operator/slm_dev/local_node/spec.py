"""The part of a Pod's spec that the local node acts on, read once into frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]
ObjectKind = Literal["secret", "configmap"]


@dataclass(frozen=True)
class Literally:
    """An environment variable whose value may refer to earlier ones as `$(NAME)`."""

    name: str
    value: str


@dataclass(frozen=True)
class FromField:
    """An environment variable taken from a field of the Pod itself."""

    name: str
    path: str


@dataclass(frozen=True)
class FromKey:
    """An environment variable taken from one key of a Secret or ConfigMap."""

    name: str
    kind: ObjectKind
    object_name: str
    key: str
    optional: bool = False


@dataclass(frozen=True)
class FromAllKeys:
    """One environment variable for each key of a Secret or ConfigMap."""

    prefix: str
    kind: ObjectKind
    object_name: str
    optional: bool = False


@dataclass(frozen=True)
class SecretMount:
    """A directory with a file for each key of a Secret, kept as the Secret is."""

    path: str
    object_name: str


@dataclass(frozen=True)
class HttpGet:
    """A GET that succeeds with a status from 200 to 399. `host` empty means the Pod's address."""

    port: int
    path: str = "/"
    scheme: str = "HTTP"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Exec:
    """A command in the container's environment that succeeds with exit code 0."""

    argv: tuple[str, ...]


@dataclass(frozen=True)
class ProbeSpec:
    """When and how often to check, and how many equal results change the verdict."""

    action: HttpGet | Exec
    initial_delay_seconds: float = 0
    period_seconds: float = 10
    timeout_seconds: float = 1
    failure_threshold: int = 3
    success_threshold: int = 1
    grace_period_seconds: float | None = None


@dataclass(frozen=True)
class ContainerSpec:
    """One container. `pre_stop` is a command, empty for none."""

    name: str
    image: str
    pull_policy: str = "IfNotPresent"
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[Literally | FromField | FromKey, ...] = ()
    env_from: tuple[FromAllKeys, ...] = ()
    startup: ProbeSpec | None = None
    readiness: ProbeSpec | None = None
    liveness: ProbeSpec | None = None
    pre_stop: tuple[str, ...] = ()
    secrets: tuple[SecretMount, ...] = ()
    log_is_last_message: bool = False
    """terminationMessagePolicy: FallbackToLogsOnError."""


@dataclass(frozen=True)
class PodSpec:
    """One Pod. `unsupported` names what it asks for and the local node cannot give."""

    namespace: str
    name: str
    uid: str
    node_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    restart_policy: str = "Always"
    grace_period_seconds: float = 30
    containers: tuple[ContainerSpec, ...] = ()
    unsupported: tuple[str, ...] = ()


def parse_pod(pod: Json) -> PodSpec:
    """Reads a Pod as the API server returns it."""
    metadata, spec = pod["metadata"], pod["spec"]
    unsupported = _unsupported_in_pod(spec)
    secrets = {
        volume["name"]: volume["secret"]["secretName"]
        for volume in spec.get("volumes") or []
        if "secret" in volume
    }
    containers = tuple(_container(each, secrets, unsupported) for each in spec["containers"])
    return PodSpec(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        node_name=spec.get("nodeName", ""),
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
        restart_policy=spec.get("restartPolicy", "Always"),
        grace_period_seconds=spec.get("terminationGracePeriodSeconds", 30),
        containers=containers,
        unsupported=tuple(unsupported),
    )


def _unsupported_in_pod(spec: Json) -> list[str]:
    found = ["initContainers"] if spec.get("initContainers") else []
    mounts = [
        mount for container in spec["containers"] for mount in container.get("volumeMounts") or []
    ]
    for volume in spec.get("volumes") or []:
        name = volume["name"]
        # The API server adds this one by itself; a process on the host has no use for it.
        if "emptyDir" in volume or name.startswith("kube-api-access-"):
            continue
        if "secret" in volume and _as_it_is(volume["secret"]):
            continue
        if "hostPath" in volume:
            source = volume["hostPath"]["path"]
            paths = [mount["mountPath"] for mount in mounts if mount["name"] == name]
            if all(path == source for path in paths):
                continue
        found.append(f"volumes[{name}]")
    return found


def _as_it_is(secret: Json) -> bool:
    """Whether each key becomes a file of its name, and the Secret has to be there."""
    renamed = any(item["key"] != item["path"] for item in secret.get("items") or [])
    return not (renamed or secret.get("optional"))


def _container(
    container: Json, secrets: Mapping[str, str], unsupported: list[str]
) -> ContainerSpec:
    name = container["name"]
    ports = {
        port["name"]: port["containerPort"]
        for port in container.get("ports") or []
        if "name" in port
    }

    def probe(field_name: str) -> ProbeSpec | None:
        described = container.get(field_name)
        if not described:
            return None
        action = _action(described, ports)
        if action is None:
            unsupported.append(f"containers[{name}].{field_name} without httpGet or exec")
            return None
        return ProbeSpec(
            action=action,
            initial_delay_seconds=described.get("initialDelaySeconds", 0),
            period_seconds=described.get("periodSeconds", 10),
            timeout_seconds=described.get("timeoutSeconds", 1),
            failure_threshold=described.get("failureThreshold", 3),
            success_threshold=described.get("successThreshold", 1),
            grace_period_seconds=described.get("terminationGracePeriodSeconds"),
        )

    lifecycle = container.get("lifecycle") or {}
    pre_stop = lifecycle.get("preStop") or {}
    if lifecycle.get("postStart"):
        unsupported.append(f"containers[{name}].lifecycle.postStart")
    if pre_stop and "exec" not in pre_stop:
        unsupported.append(f"containers[{name}].lifecycle.preStop without exec")
    return ContainerSpec(
        name=name,
        image=container.get("image", ""),
        pull_policy=container.get("imagePullPolicy", "IfNotPresent"),
        command=tuple(container.get("command") or ()),
        args=tuple(container.get("args") or ()),
        working_dir=container.get("workingDir", ""),
        env=tuple(
            variable
            for each in container.get("env") or []
            if (variable := _variable(each, name, unsupported))
        ),
        env_from=tuple(_all_keys(each) for each in container.get("envFrom") or []),
        startup=probe("startupProbe"),
        readiness=probe("readinessProbe"),
        liveness=probe("livenessProbe"),
        pre_stop=tuple((pre_stop.get("exec") or {}).get("command") or ()),
        secrets=tuple(
            SecretMount(mount["mountPath"], secrets[mount["name"]])
            for mount in container.get("volumeMounts") or []
            if mount["name"] in secrets
        ),
        log_is_last_message=container.get("terminationMessagePolicy") == "FallbackToLogsOnError",
    )


def _action(probe: Json, ports: Mapping[str, int]) -> HttpGet | Exec | None:
    if "exec" in probe:
        return Exec(tuple(probe["exec"].get("command") or ()))
    get = probe.get("httpGet")
    if get is None:
        return None
    port = get["port"]
    number = port if isinstance(port, int) else ports.get(port)
    if number is None:
        return None
    return HttpGet(
        port=number,
        path="/" + get.get("path", "/").removeprefix("/"),
        scheme=get.get("scheme", "HTTP"),
        host=get.get("host", ""),
        headers=tuple((each["name"], each["value"]) for each in get.get("httpHeaders") or []),
    )


def _variable(
    entry: Json, container: str, unsupported: list[str]
) -> Literally | FromField | FromKey | None:
    name = entry["name"]
    source = entry.get("valueFrom")
    if not source:
        return Literally(name, entry.get("value") or "")
    if "fieldRef" in source:
        return FromField(name, source["fieldRef"]["fieldPath"])
    kinds: dict[str, ObjectKind] = {"secretKeyRef": "secret", "configMapKeyRef": "configmap"}
    for reference_name, kind in kinds.items():
        if reference_name in source:
            reference = source[reference_name]
            optional = bool(reference.get("optional"))
            return FromKey(name, kind, reference["name"], reference["key"], optional)
    unsupported.append(f"containers[{container}].env[{name}].valueFrom.{next(iter(source))}")
    return None


def _all_keys(entry: Json) -> FromAllKeys:
    kind: ObjectKind = "secret" if "secretRef" in entry else "configmap"
    reference = entry["secretRef" if kind == "secret" else "configMapRef"]
    return FromAllKeys(
        entry.get("prefix", ""), kind, reference["name"], bool(reference.get("optional"))
    )
