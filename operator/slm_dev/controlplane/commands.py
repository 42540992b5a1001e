"""The command lines of etcd and the API server: what every use of them has in common. Pure."""

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from slm_dev.controlplane.binaries import Binaries

ETCD_DATA = "etcd"
"""etcd's folder below its working folder."""
SERVICES = IPv4Network("10.96.0.0/16")
# Socket files in etcd's working folder: etcd asks for no password, and only the folder's owner
# can open them. It insists on the form host:port even so.
_ETCD_CLIENT_URL = "unix://localhost:1"
_ETCD_PEER_URL = "unix://localhost:2"


def etcd(binaries: Binaries) -> list[str]:
    """Return the command of an etcd that keeps its data in its working folder."""
    return [
        str(binaries.etcd),
        f"--data-dir={ETCD_DATA}",
        f"--listen-client-urls={_ETCD_CLIENT_URL}",
        f"--advertise-client-urls={_ETCD_CLIENT_URL}",
        f"--listen-peer-urls={_ETCD_PEER_URL}",
        f"--initial-advertise-peer-urls={_ETCD_PEER_URL}",
        f"--initial-cluster=default={_ETCD_PEER_URL}",
        "--unsafe-no-fsync",
    ]


def kube_apiserver(binaries: Binaries, address: IPv4Address, port: int) -> list[str]:
    """Return the command of an API server in etcd's working folder.

    It reads `tokens.csv` and `service-account.key` there, and writes its own certificate to
    `certificates/apiserver.crt`.
    """
    return [
        str(binaries.kube_apiserver),
        f"--etcd-servers={_ETCD_CLIENT_URL}",
        f"--secure-port={port}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        "--cert-dir=certificates",
        "--token-auth-file=tokens.csv",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-account-key-file=service-account.key",
        "--service-account-signing-key-file=service-account.key",
        f"--service-cluster-ip-range={SERVICES}",
        "--allow-privileged",
        # With a handful of clients it only costs CPU.
        "--enable-priority-and-fairness=false",
        # Otherwise a stop waits up to a minute for clients to end their watches.
        "--shutdown-watch-termination-grace-period=1s",
    ]


def audit(log: Path) -> list[str]:
    """Return the API server's flags that log each request, by the policy `audit-policy.json`."""
    return [
        "--audit-policy-file=audit-policy.json",
        f"--audit-log-path={log}",
        # Megabytes; the default rotates at 100, and counts would have to join the parts.
        "--audit-log-maxsize=10000",
    ]


AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # Only the end of each request, so that one request is one line.
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "Metadata"}],
}
