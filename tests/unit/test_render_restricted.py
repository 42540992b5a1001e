"""Every pack keeps the level `restricted` of the Pod Security Standards, whatever is asked for.

The rules are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/; that
the API server's own admission agrees is seen in tests/integration/test_operator_security.py.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from builders import service
from slm_operator.render import children

Object = dict[str, Any]

VOLUME_TYPES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret", "image"),
}


def beyond_restricted(spec: Object) -> list[str]:
    """What of a Pod's spec the level forbids."""
    found: list[str] = [
        field
        for field in ("hostNetwork", "hostPID", "hostIPC", "serviceAccountName", "nodeName")
        if field in spec
    ]
    found += [k for v in spec["volumes"] for k in v if k not in VOLUME_TYPES | {"name"}]
    context = spec["securityContext"]
    if context["runAsNonRoot"] is not True or context["runAsUser"] == 0:
        found.append("root")
    if context["seccompProfile"]["type"] not in ("RuntimeDefault", "Localhost"):
        found.append("seccomp")
    for container in [*spec["containers"], *spec.get("initContainers", ())]:
        own = container["securityContext"]
        if own.get("privileged") or own["allowPrivilegeEscalation"] is not False:
            found.append("privileges")
        if own["capabilities"] != {"drop": ["ALL"]}:
            found.append("capabilities")
        if any("hostPort" in port for port in container["ports"]):
            found.append("hostPort")
        if {"runAsUser", "runAsNonRoot", "seccompProfile", "procMount"} & set(own):
            found.append("another context")
    return found


KINDS: list[Object] = [
    {"emptyDir": {}},
    {"secret": {"secretName": "s"}},
    {"configMap": {"name": "c"}},
    {"persistentVolumeClaim": {"claimName": "p"}},
    # What no schema takes: it is dropped where nobody asked for strict validation.
    {"emptyDir": {}, "hostPath": {"path": "/"}},
]
SOURCES = st.sampled_from(KINDS)
TEMPLATES = st.fixed_dictionaries(
    {},
    optional={
        "labels": st.just({"team": "a"}),
        "annotations": st.just({"container.apparmor.security.beta.kubernetes.io/other": "x"}),
        "volumes": st.lists(SOURCES, max_size=3).map(
            lambda found: [
                {"name": f"v{i}", "mountPath": f"/v{i}", **source} for i, source in enumerate(found)
            ]
        ),
        "runtimeClassName": st.just("nvidia"),
        "priorityClassName": st.just("high"),
        "tolerations": st.just([{"operator": "Exists"}]),
        "hostNetwork": st.just(True),
        "hostPID": st.just(True),
        "serviceAccountName": st.just("admin"),
        "securityContext": st.just({"runAsUser": 0, "privileged": True}),
        "initContainers": st.just([{"name": "x", "image": "x"}]),
    },
)
URIS = st.sampled_from(["hf://a/b", "pvc://claim/path", "oci://r.example.com/m:v1", "file:///m"])


@given(TEMPLATES, URIS, st.sampled_from(["NVIDIA", "CPU"]))
def test_no_service_gets_more_than_the_level_allows(
    template: Object, uri: str, device: str
) -> None:
    asked = service(
        {"model": {"uri": uri}, "engine": {}, "gpu": {"kind": device}, "podTemplate": template}
    )
    spec = children.pack_pod(asked, 0, "w")["spec"]
    assert beyond_restricted(spec) == []
    assert spec["automountServiceAccountToken"] is False
