"""Kubeconfig files of one context."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SERVER = "https://127.0.0.1:6443"


def written(
    path: Path,
    server: str = SERVER,
    *,
    user: Mapping[str, Any] | None = None,
    cluster: Mapping[str, Any] | None = None,
    namespace: str = "default",
    name: str = "here",
    current: str | None = "here",
) -> Path:
    """``name``: of all that is in it, as of the only context."""
    context = {"cluster": name, "user": name, "namespace": namespace}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "current-context": current,
                "contexts": [{"name": name, "context": context}],
                "clusters": [{"name": name, "cluster": {"server": server, **(cluster or {})}}],
                "users": [{"name": name, "user": dict(user or {})}],
            }
        )
    )
    return path


def user_of_a_command(counted_in: Path, **more: str) -> dict[str, Any]:
    """Whose token a command tells: token-1 at first, token-2 when it is asked again."""
    status = json.dumps({"token": "token-%d", **more})
    credential = (
        '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", '
        f'"status": {status}}}'
    )
    script = f"echo >> {counted_in}; printf '{credential}' $(wc -l < {counted_in})"
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "sh",
            "args": ["-c", script],
            "interactiveMode": "Never",
        }
    }
