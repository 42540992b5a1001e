"""Who the cluster's API server knows by a token, and the certificates of its own clients."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from slm_dev.cluster.layout import Layout
from slm_dev.controlplane import credentials
from slm_dev.controlplane.credentials import User

ADMIN = "admin"
_CERTIFICATE_DAYS = 365


def users(layout: Layout) -> Mapping[str, User]:
    """Return the users by the names of their kubeconfig files."""
    return {
        ADMIN: User("admin", ("system:masters",)),
        "kube-controller-manager": User("system:kube-controller-manager", ()),
        "kube-scheduler": User("system:kube-scheduler", ()),
        "kube-proxy": User("system:kube-proxy", ()),
        "kubelet": User(f"system:node:{layout.node}", ("system:nodes",)),
        "metrics-server": User("system:metrics-server", ()),
    }


def write_credentials(layout: Layout) -> None:
    """Write all that programs and users prove themselves by. Each cluster gets new ones."""
    folder = layout.credentials
    folder.mkdir(mode=0o700)
    known = users(layout)
    tokens = credentials.random_tokens(known)
    credentials.write_token_file(layout.data / "tokens.csv", known, tokens)
    for user, token in tokens.items():
        credentials.write_kubeconfig(
            layout.kubeconfig(user), user, layout.api_url, layout.authority, token
        )
    credentials.write_service_account_key(layout.data / "service-account.key")
    _write_authority(folder)
    # The kubelet takes orders from whoever this authority vouches for, within RBAC's limits.
    _write_certificate(folder, "apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver")
    # By this one, metrics-server knows that the API server has asked for the user already.
    _write_certificate(folder, "front-proxy-client", "/CN=front-proxy")


def _write_authority(folder: Path) -> None:
    _openssl(
        folder,
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
        ["-days", str(_CERTIFICATE_DAYS), "-subj", "/CN=slm-cluster"],
        ["-keyout", "ca.key", "-out", "ca.crt"],
    )


def _write_certificate(folder: Path, name: str, subject: str) -> None:
    extensions = folder / "client.ext"
    extensions.write_text("extendedKeyUsage=clientAuth\n")
    _openssl(
        folder,
        ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"],
        ["-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr"],
    )
    _openssl(
        folder,
        ["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"],
        ["-CAcreateserial", "-days", str(_CERTIFICATE_DAYS), "-extfile", extensions.name],
        ["-out", f"{name}.crt"],
    )


def _openssl(folder: Path, *arguments: Sequence[str]) -> None:
    command = ["openssl", *(word for part in arguments for word in part)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{json.dumps(command)} failed: {done.stderr.strip()}")
