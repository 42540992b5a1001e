"""What spec.podTemplate adds to the spec of a pack's Pod."""

from __future__ import annotations

from typing import Any

from slm_operator.api.pod_template import PodTemplate, Resources, Volume

Object = dict[str, Any]


def add(pod: Object, added: PodTemplate) -> None:
    """Changes the spec ``pod``. Nothing that the operator set is replaced."""
    container = pod["containers"][0]
    for volume in added.volumes:
        pod["volumes"].append({"name": volume.name, **_source(volume)})
        mount: Object = {"name": volume.name, "mountPath": volume.mount_path}
        if volume.read_only:
            mount["readOnly"] = True
        container["volumeMounts"].append(mount)
    if added.resources is not None:
        _add_resources(container, added.resources)
    if added.node_selector:
        pod["nodeSelector"] = dict(added.node_selector)
    if added.tolerations:
        pod["tolerations"] = [_plain(each) for each in added.tolerations]
    if added.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": each.name} for each in added.image_pull_secrets]
    if added.priority_class_name is not None:
        pod["priorityClassName"] = added.priority_class_name
    if added.runtime_class_name is not None:
        pod["runtimeClassName"] = added.runtime_class_name


def _add_resources(container: Object, resources: Resources) -> None:
    for kind, amounts in (("requests", resources.requests), ("limits", resources.limits)):
        given = _plain(amounts) if amounts is not None else {}
        if given:
            block = container.setdefault("resources", {})
            block[kind] = {**block.get(kind, {}), **given}


def _source(volume: Volume) -> Object:
    given: Object = volume.model_dump(
        mode="json",
        by_alias=True,
        exclude_none=True,
        include={"persistent_volume_claim", "config_map", "secret", "empty_dir"},
    )
    return given


def _plain(model: Any) -> Object:
    found: Object = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return found
