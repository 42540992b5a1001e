"""What is said again counts, and nobody is flooded."""

from __future__ import annotations

from typing import Any

import pytest

from builders import service
from slm_operator.cluster import events as subject
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.events import BURST, REFILL_SECONDS, REPEATED_SECONDS, Events
from slm_operator.decide.decision import Event

STARTING = Event("Warning", "AgentUnreachable", "the agent does not answer")


class Api:
    """Stands for the API server; ``refusals`` are what the next calls are answered with."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.created: list[Any] = []
        self.patched: list[tuple[str, Any]] = []
        self.refusals: list[KubeError] = []

    async def create(self, obj: Any) -> None:
        self._refuse()
        self.created.append(obj)

    async def merge(self, obj: Any, patch: Any) -> None:
        self._refuse()
        self.patched.append((obj["metadata"]["name"], patch))

    def _refuse(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)

    def now(self) -> str:
        return f"2026-01-01T00:{int(self.seconds) // 60:02}:{int(self.seconds) % 60:02}Z"


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def events(api: Api) -> Events:
    return Events(api, api.now, lambda: api.seconds)  # type: ignore[arg-type]


async def test_the_first_time_it_is_created_and_then_it_counts(api: Api, events: Events) -> None:
    for _ in range(3):
        await events.tell(service(), STARTING)
        api.seconds += 60
    (created,) = api.created
    assert (created["reason"], created["type"], created["count"]) == (
        "AgentUnreachable", "Warning", 1,
    )  # fmt: skip
    assert created["involvedObject"]["uid"] == "u1"
    name = created["metadata"]["name"]
    assert name.startswith("chat.")
    assert api.patched == [
        (name, {"count": 2, "lastTimestamp": "2026-01-01T00:01:00Z"}),
        (name, {"count": 3, "lastTimestamp": "2026-01-01T00:02:00Z"}),
    ]


async def test_another_message_another_service_or_a_later_time_is_another_event(
    api: Api, events: Events
) -> None:
    await events.tell(service(), STARTING)
    await events.tell(service(), Event("Warning", "AgentUnreachable", "another"))
    await events.tell(service(uid="u2", name="other"), STARTING)
    api.seconds += REPEATED_SECONDS
    await events.tell(service(), STARTING)
    assert len(api.created) == 4 and not api.patched
    assert len({e["metadata"]["name"] for e in api.created}) == 4


async def test_one_that_the_api_server_has_forgotten_is_created_anew(
    api: Api, events: Events
) -> None:
    await events.tell(service(), STARTING)
    api.seconds += 1
    api.refusals = [KubeError(404, "NotFound", "gone")]
    await events.tell(service(), STARTING)
    assert [e["count"] for e in api.created] == [1, 1]


async def test_a_refusal_is_logged_and_fails_nobody(
    api: Api, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    api.refusals = [KubeError(403, "Forbidden", "no")]
    await events.tell(service(), STARTING)
    assert "default/chat: no event: Forbidden" in caplog.text
    await events.tell(service(), STARTING)
    assert len(api.created) == 1


async def test_a_service_that_talks_much_is_cut_short_and_others_are_not(
    api: Api, events: Events
) -> None:
    for number in range(BURST + 10):
        await events.tell(service(), Event("Normal", "Probed", f"window {number}"))
    await events.tell(service(uid="u2"), STARTING)
    assert len(api.created) == BURST + 1
    api.seconds += REFILL_SECONDS
    for number in range(3):
        await events.tell(service(), Event("Normal", "Probed", f"later {number}"))
    assert len(api.created) == BURST + 2


async def test_what_is_remembered_is_bounded(
    api: Api, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "REMEMBERED", 2)
    for number in range(5):
        await events.tell(service(uid=f"u{number}"), STARTING)
    assert len(events._told) == len(events._allowances) == 2


async def test_a_long_message_is_cut_to_what_the_api_takes(api: Api, events: Events) -> None:
    await events.tell(service(), Event("Normal", "KneeFound", "x" * 5000))
    assert len(api.created[0]["message"]) == 1024
