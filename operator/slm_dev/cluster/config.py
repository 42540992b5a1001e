"""Renders the configuration files of the cluster's programs. Pure."""

from typing import Any

from slm_dev.cluster.layout import Layout
from slm_dev.cluster.requirements import CNI_PLUGINS

Json = dict[str, Any]

PAUSE_IMAGE = "slm.local/pause:dev"
PROBE_IMAGE = "slm.local/probe:dev"
"""Of a server and client for trying the network; Pods use it with `imagePullPolicy: Never`."""
NETWORK_NAME = "slm-pods"


def containerd(layout: Layout) -> str:
    """containerd's configuration, a TOML document of version 2."""
    runtime = layout.runtime
    # Each path that is left out would be one that a containerd of the host uses, too.
    return f"""\
version = 2
root = "{layout.data}/containerd"
state = "{runtime}/containerd"
# Of which CRI is needed, and not the snapshotters that look for a file system of their own.
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "{layout.containerd_socket}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.data}/containerd-opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE, as in many virtual machines, runc cannot lower the score and dies.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "{layout.address}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{CNI_PLUGINS}"
    conf_dir = "{layout.data}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
      Root = "{runtime}/runc"
"""


def cni(layout: Layout) -> Json:
    """The Pods' network: each has a link of its own to the host, which routes between them.

    Unlike with a bridge, all traffic between Pods passes the host's iptables: Services work without
    the kernel's bridge netfilter, and a rule can part two Pods.
    """
    return {
        "cniVersion": "0.4.0",
        "name": NETWORK_NAME,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": f"{layout.runtime}/addresses",
                    "ranges": [[{"subnet": str(layout.pods), "gateway": str(layout.address)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def kubelet(layout: Layout) -> Json:
    """The kubelet's configuration."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(layout.address),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.credentials / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        # Version 1 still works, and is all that some virtual machines have.
        "failCgroupV1": False,
        "failSwapOn": False,
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "podLogsDir": str(layout.pod_logs),
        "volumePluginDir": f"{layout.kubelet}/volume-plugins",
        "clusterDNS": [str(layout.dns)],
        "clusterDomain": "cluster.local",
        # The host's resolvers may well be unreachable from Pods.
        "resolvConf": "",
        # The disk is the developer's own: Pods need not go, and images must stay, when it fills.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "healthzPort": 0,
        # How soon Pods see that a Secret of theirs has changed; the default is a minute.
        "syncFrequency": "10s",
        # How soon a volume that is too full is seen; the default is a minute.
        "volumeStatsAggPeriod": "5s",
        # Four heartbeats each, half the default, so that a node that is lost is soon missed.
        "nodeLeaseDurationSeconds": 20,
        # How often a node that does not change says so; the default is five minutes.
        "nodeStatusReportFrequency": "10s",
        # The defaults spare a large cluster's API server.
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "registryPullQPS": 0,
    }


def kube_proxy(layout: Layout) -> Json:
    """The configuration of kube-proxy: Services by iptables, on this cluster's addresses only."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig("kube-proxy"))},
        "clusterCIDR": str(layout.pods),
        "hostnameOverride": layout.node,
        "healthzBindAddress": f"{layout.address}:10256",
        "metricsBindAddress": f"{layout.address}:10249",
        "nodePortAddresses": [f"{layout.address}/32"],
        # Zero leaves the host's settings of connection tracking as they are.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        # Otherwise it lets the host route loopback addresses, for all of its links.
        "iptables": {"localhostNodePorts": False},
    }


def corefile() -> str:
    """CoreDNS's configuration: the cluster's names, and no others."""
    return """\
.:53 {
    errors
    health
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    prometheus :9153
    cache 5
    reload 5s
    loadbalance
}
"""
