"""slmctl, against a cluster that only answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from slm_operator.cli.app import app
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube, Object, Objects


class Cluster:
    """Answers as the API server does. ``refusal``: what every call is answered with instead."""

    def __init__(self, *objects: Mapping[str, Any], refusal: KubeError | None = None) -> None:
        self._objects = {o["metadata"]["name"]: o for o in objects}
        self._refusal = refusal

    async def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> Object:
        self._refuse()
        if name not in self._objects:
            raise KubeError(404, "NotFound", f'slmservices "{name}" not found')
        return self._objects[name]

    async def list(self, api_version: str, kind: str, namespace: str = "") -> Objects:
        self._refuse()
        return list(self._objects.values())

    async def close(self) -> None:
        pass

    def _refuse(self) -> None:
        if self._refusal is not None:
            raise self._refusal


def slmctl(
    monkeypatch: pytest.MonkeyPatch,
    cluster: object,
    *arguments: str,
    namespace: str = "default",
    columns: str = "200",
) -> Result:
    """What a command says in a terminal that is wide enough for it."""

    async def connect(kubeconfig: Path | None = None) -> object:
        return cluster

    monkeypatch.setattr(Kube, "connect", connect)
    monkeypatch.setenv("COLUMNS", columns)
    return CliRunner().invoke(app, [*arguments, "-n", namespace])
