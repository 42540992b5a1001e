"""The Kubernetes objects of every cluster: DNS, metrics, and the rights of the parts. Pure."""

from typing import Any

from slm_dev.cluster import config
from slm_dev.cluster.components import METRICS_PORT
from slm_dev.cluster.layout import Layout

Json = dict[str, Any]

COREDNS_IMAGE = "slm.local/coredns:dev"
_SYSTEM = "kube-system"
_LABELS = {"k8s-app": "kube-dns"}
_RBAC = "rbac.authorization.k8s.io"


def system_objects(layout: Layout) -> list[Json]:
    """What is applied once the API server serves."""
    return [*_dns(layout), *_metrics(layout)]


def _dns(layout: Layout) -> list[Json]:
    return [
        _object("v1", "ServiceAccount", "coredns"),
        *_role(
            "slm-coredns",
            {"kind": "ServiceAccount", "name": "coredns", "namespace": _SYSTEM},
            [
                _rule("", ["endpoints", "services", "pods", "namespaces"], ["list", "watch"]),
                _rule("discovery.k8s.io", ["endpointslices"], ["list", "watch"]),
            ],
        ),
        _object("v1", "ConfigMap", "coredns", data={"Corefile": config.corefile()}),
        _object("apps/v1", "Deployment", "coredns", spec=_dns_deployment()),
        _object(
            "v1",
            "Service",
            "kube-dns",
            spec={
                "clusterIP": str(layout.dns),
                "selector": _LABELS,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                    {"name": "metrics", "port": 9153, "protocol": "TCP"},
                ],
            },
        ),
    ]


def _dns_deployment() -> Json:
    container = {
        "name": "coredns",
        "image": COREDNS_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "livenessProbe": {"httpGet": {"path": "/health", "port": 8080}, "timeoutSeconds": 5},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": {
            # A port below 1024 takes a capability, which only root gets without file capabilities.
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        },
    }
    return {
        "selector": {"matchLabels": _LABELS},
        "template": {
            "metadata": {"labels": _LABELS},
            "spec": {
                "serviceAccountName": "coredns",
                "priorityClassName": "system-cluster-critical",
                # Its own resolver must not be itself.
                "dnsPolicy": "Default",
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{"operator": "Exists"}],
                "containers": [container],
                "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
            },
        },
    }


def _metrics(layout: Layout) -> list[Json]:
    """metrics-server runs on the host, so its Service names the host's address itself."""
    user = {"kind": "User", "apiGroup": _RBAC, "name": "system:metrics-server"}
    delegator = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": "system:auth-delegator"}
    reader = {
        "apiGroup": _RBAC,
        "kind": "Role",
        "name": "extension-apiserver-authentication-reader",
    }
    return [
        *_role(
            "slm-metrics-server",
            user,
            [
                _rule("", ["nodes/metrics"], ["get"]),
                _rule("", ["pods", "nodes"], ["get", "list", "watch"]),
            ],
        ),
        {
            **_cluster_object(f"{_RBAC}/v1", "ClusterRoleBinding", "slm-metrics-server-delegator"),
            "roleRef": delegator,
            "subjects": [user],
        },
        {
            **_object(f"{_RBAC}/v1", "RoleBinding", "slm-metrics-server-reader"),
            "roleRef": reader,
            "subjects": [user],
        },
        _object("v1", "Service", "metrics-server", spec={"ports": [{"port": 443}]}),
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "metrics-server-host",
                "namespace": _SYSTEM,
                "labels": {"kubernetes.io/service-name": "metrics-server"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "", "port": METRICS_PORT, "protocol": "TCP"}],
            "endpoints": [{"addresses": [str(layout.address)], "conditions": {"ready": True}}],
        },
        {
            **_cluster_object("apiregistration.k8s.io/v1", "APIService", "v1beta1.metrics.k8s.io"),
            "spec": {
                "group": "metrics.k8s.io",
                "version": "v1beta1",
                "service": {"name": "metrics-server", "namespace": _SYSTEM},
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                # Its certificate is its own, made at its start.
                "insecureSkipTLSVerify": True,
            },
        },
    ]


def _role(name: str, subject: Json, rules: list[Json]) -> list[Json]:
    return [
        {**_cluster_object(f"{_RBAC}/v1", "ClusterRole", name), "rules": rules},
        {
            **_cluster_object(f"{_RBAC}/v1", "ClusterRoleBinding", name),
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [subject],
        },
    ]


def _rule(group: str, resources: list[str], verbs: list[str]) -> Json:
    return {"apiGroups": [group], "resources": resources, "verbs": verbs}


def _cluster_object(version: str, kind: str, name: str) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _object(version: str, kind: str, name: str, **fields: Any) -> Json:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": _SYSTEM},
        **fields,
    }
