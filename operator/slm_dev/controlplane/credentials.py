"""The users of a control plane: their tokens and kubeconfig files, and the signing key."""

import base64
import json
import os
import secrets
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

UserName = Literal["admin", "operator", "node", "second-node"]
_Key = TypeVar("_Key", bound=str)


@dataclass(frozen=True)
class User:
    """Who the API server takes the bearer of a token for."""

    name: str
    groups: tuple[str, ...]


USERS: Mapping[UserName, User] = {
    "admin": User("admin", ("system:masters",)),
    # No groups: all its rights come from the RBAC manifest under test.
    "operator": User("slm-operator", ()),
    "node": User("system:node:local", ("system:nodes",)),
    "second-node": User("system:node:second", ("system:nodes",)),
}

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
# An ECPrivateKey (RFC 5915) around a 32-byte scalar, with the curve's name and no public key.
_P256_DER_HEAD = bytes.fromhex("30310201010420")
_P256_DER_TAIL = bytes.fromhex("a00a06082a8648ce3d030107")


def random_tokens(users: Mapping[_Key, User]) -> dict[_Key, str]:
    """Return a new token for each user."""
    return {user: secrets.token_urlsafe(32) for user in users}


def write_token_file(path: Path, users: Mapping[_Key, User], tokens: Mapping[_Key, str]) -> None:
    """Write the API server's static token file."""
    lines = []
    for key, user in users.items():
        fields = [tokens[key], user.name, user.name]
        if user.groups:
            fields.append('"' + ",".join(user.groups) + '"')
        lines.append(",".join(fields) + "\n")
    _write_private(path, "".join(lines))


def write_service_account_key(path: Path) -> None:
    """Write a new P-256 key for the API server to sign service account tokens with.

    An elliptic curve key is a random number in a fixed frame, so neither openssl nor a
    cryptography package is needed.
    """
    scalar = 1 + secrets.randbelow(_P256_ORDER - 1)
    der = _P256_DER_HEAD + scalar.to_bytes(32, "big") + _P256_DER_TAIL
    body = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    _write_private(path, f"-----BEGIN EC PRIVATE KEY-----\n{body}\n-----END EC PRIVATE KEY-----\n")


def write_kubeconfig(path: Path, user: str, url: str, authority: Path, token: str) -> None:
    """Write a kubeconfig file (as JSON, which is YAML) for one user.

    It names the file `authority`: clients would unpack embedded data into temporary files, and one
    that is killed would leave them.
    """
    cluster = {"server": url, "certificate-authority": str(authority)}
    context = {"cluster": "slm-dev", "user": user, "namespace": "default"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "slm-dev", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "slm-dev", "context": context}],
        "current-context": "slm-dev",
    }
    _write_private(path, json.dumps(config, indent=2) + "\n")


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
