"""What a container's process is given: its environment and its command line. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from slm_dev.local_node.spec import (
    ContainerSpec,
    FromField,
    FromKey,
    Literally,
    ObjectKind,
    PodSpec,
)

Objects = Mapping[tuple[ObjectKind, str], Mapping[str, str] | None]
"""The data of each Secret and ConfigMap by kind and name; None for one that does not exist."""

_REFERENCE = re.compile(r"\$(?:\$|\((?P<name>[^()$]+)\))")
_SUBSCRIPT = re.compile(r"metadata\.(?P<field>labels|annotations)\['(?P<key>[^']+)'\]")


@dataclass(frozen=True)
class LocalImage:
    """What stands for a container image on this host: the environment its processes start with.

    `PATH` decides which programs the image "contains".
    """

    env: Mapping[str, str]


class ConfigError(Exception):
    """A container cannot be started as it is configured; its Pod says why and it is retried."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replaces `$(NAME)` by its value, as Kubernetes does.

    `$$(NAME)` stands for a literal `$(NAME)`, and a name that is not known stays as it is.
    """

    def value(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        return variables.get(match["name"], match[0])

    return _REFERENCE.sub(value, text)


def find_image(container: ContainerSpec, images: Mapping[str, LocalImage]) -> LocalImage:
    """The image of a container.

    Raises:
        ConfigError: this host does not have it.
    """
    if container.image in images:
        return images[container.image]
    never = container.pull_policy == "Never"
    raise ConfigError(
        "ErrImageNeverPull" if never else "ImagePullBackOff",
        f'Container image "{container.image}" is not present on the local node, which pulls '
        f"nothing; it has: {', '.join(sorted(images)) or 'none'}",
    )


def referenced_objects(container: ContainerSpec) -> frozenset[tuple[ObjectKind, str]]:
    """Kind and name of each Secret and ConfigMap that the environment is made from."""
    by_key = {(each.kind, each.object_name) for each in container.env if isinstance(each, FromKey)}
    return frozenset(by_key | {(each.kind, each.object_name) for each in container.env_from})


def render_environment(
    pod: PodSpec, container: ContainerSpec, objects: Objects, address: str
) -> dict[str, str]:
    """The variables that the Pod sets, without those of the image.

    Raises:
        ConfigError: a Secret, ConfigMap, key or field is missing and not optional.
    """
    rendered: dict[str, str] = {}
    for source in container.env_from:
        data = _data(objects, source.kind, source.object_name, source.optional)
        rendered |= {
            f"{source.prefix}{key}": value for key, value in data.items() if "=" not in key
        }
    for variable in container.env:
        match variable:
            case Literally(name, value):
                rendered[name] = expand(value, rendered)
            case FromField(name, path):
                rendered[name] = _field(pod, path, address)
            case FromKey(name, kind, object_name, key, optional):
                data = _data(objects, kind, object_name, optional)
                if key in data:
                    rendered[name] = data[key]
                elif not optional:
                    shown = {"secret": "Secret", "configmap": "ConfigMap"}[kind]
                    raise ConfigError(
                        "CreateContainerConfigError",
                        f"couldn't find key {key} in {shown} {pod.namespace}/{object_name}",
                    )
    return rendered


def render_command(container: ContainerSpec, variables: Mapping[str, str]) -> tuple[str, ...]:
    """The command line with its references replaced.

    Raises:
        ConfigError: the container names no command; a local image has none of its own.
    """
    if not container.command:
        raise ConfigError(
            "CreateContainerError",
            f'container "{container.name}" has no command, and an image of the local node has no '
            "entry point: give the container a command",
        )
    return tuple(expand(each, variables) for each in container.command + container.args)


def _data(objects: Objects, kind: ObjectKind, name: str, optional: bool) -> Mapping[str, str]:
    data = objects[kind, name]
    if data is None and not optional:
        raise ConfigError("CreateContainerConfigError", f'{kind} "{name}" not found')
    return data or {}


def _field(pod: PodSpec, path: str, address: str) -> str:
    known = {
        "metadata.name": pod.name,
        "metadata.namespace": pod.namespace,
        "metadata.uid": pod.uid,
        "spec.nodeName": pod.node_name,
        "status.podIP": address,
        "status.podIPs": address,
    }
    if path in known:
        return known[path]
    if match := _SUBSCRIPT.fullmatch(path):
        source = pod.labels if match["field"] == "labels" else pod.annotations
        return source.get(match["key"], "")
    raise ConfigError(
        "CreateContainerConfigError",
        f"fieldRef {path} is not supported by the local node; it knows {', '.join(known)}, "
        "metadata.labels['KEY'] and metadata.annotations['KEY']",
    )
