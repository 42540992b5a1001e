"""An API server and the loops of services, as the comparison of the two sees them."""

from __future__ import annotations

import pytest

from slm_operator import services as subject
from slm_operator.cluster.connection import KubeError

AWAY = KubeError(0, "Unreachable", "away")
UNKNOWN = KubeError(404, "NotFound", "the server could not find the requested resource")


class Api:
    """Stands for the API server: answers with what is there, each in version 1, or refuses."""

    def __init__(self, *there: str) -> None:
        self.there = dict.fromkeys(there, 1)
        self.refusal: KubeError | None = None
        self.refuses_pods_too = False
        self.asked = 0
        self.newest: list[int | KubeError] = []
        self.served: list[bool | KubeError] = [True]

    async def serves(self, api_version: str, kind: str) -> bool:
        answer = self.served.pop(0) if len(self.served) > 1 else self.served[0]
        if isinstance(answer, KubeError):
            raise answer
        return answer

    async def version(self, api_version: str, kind: str, namespace: str = "") -> int:
        if kind == "Pod":
            if self.refuses_pods_too:
                raise KubeError(404, "NotFound", "404 page not found")
            return 1
        answer = self.newest.pop(0) if len(self.newest) > 1 else self.newest[0]
        if isinstance(answer, KubeError):
            raise answer
        return answer

    async def versions(self, api_version: str, kind: str, namespace: str = "") -> dict[str, int]:
        self.asked += 1
        if namespace:
            return {uid: at for uid, at in self.there.items() if uid.startswith(f"{namespace}/")}
        if self.refusal is not None:
            raise self.refusal
        return self.there


class Loops:
    def __init__(self, *known: str) -> None:
        self.known = dict.fromkeys(known, 1)
        self.newest_version = 0

    def versions(self, namespace: str = "") -> dict[str, int]:
        return {uid: at for uid, at in self.known.items() if uid.startswith(namespace)}

    def remove(self, uid: str) -> None:
        del self.known[uid]


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(subject, "SUSPECT_SECONDS", 0.01)
    monkeypatch.setattr(subject, "VERSION_SECONDS", 0.0)
    monkeypatch.setattr(subject, "SERVED_SECONDS", 0.0)
