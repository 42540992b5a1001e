"""What a pack does now: the difference of two readings of its agent's metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from slm_operator.cli.tables import SIMULATED, UNKNOWN

CLOCK = "slm_pack_clock_seconds"
_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reading:
    """One pack's metrics at one moment, by name and labels."""

    values: dict[tuple[str, _Labels], float]

    def one(self, name: str, **labels: str) -> float | None:
        return self.values.get((name, tuple(sorted(labels.items()))))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values of ``name`` by its only label."""
        return {
            labels[0][1]: value
            for (found, labels), value in self.values.items()
            if found == name and len(labels) == 1 and labels[0][0] == label
        }


@dataclass(frozen=True)
class ReplicaActivity:
    index: int
    in_flight: int
    running: int | None
    waiting: int | None
    answers_per_second: float | None


@dataclass(frozen=True)
class Activity:
    """What one pack did between two readings; what is unknown is None."""

    service: str
    pack: str
    simulated: bool
    in_rotation: int | None = None
    output_tokens_per_second: float | None = None
    requests_per_second: float | None = None
    power_watts: float | None = None
    in_progress: int | None = None
    queued: int | None = None
    replicas: tuple[ReplicaActivity, ...] = ()
    silent: str = ""
    """Why nothing is known of it."""

    @property
    def joules_per_output_token(self) -> float | None:
        if not self.output_tokens_per_second or self.power_watts is None:
            return None
        return self.power_watts / self.output_tokens_per_second


def read(text: str) -> Reading:
    """A pack's metrics in Prometheus' text format. Raises ValueError when it is none."""
    return Reading(
        {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


def activity(service: str, pack: str, simulated: bool, before: Reading, after: Reading) -> Activity:
    """Counters that jumped back (the agent began anew) give no rate."""
    seconds = _difference(before, after, CLOCK) or 0.0

    def rate(name: str, **labels: str) -> float | None:
        change = _difference(before, after, name, **labels)
        return None if change is None or not seconds else change / seconds

    running = after.by("slm_pack_replica_running", "replica")
    waiting = after.by("slm_pack_replica_waiting", "replica")
    in_flight = after.by("slm_pack_replica_in_flight", "replica")
    return Activity(
        service=service,
        pack=pack,
        simulated=simulated,
        in_rotation=_whole(after.one("slm_pack_replicas_in_rotation")),
        output_tokens_per_second=rate("slm_pack_output_tokens_total"),
        requests_per_second=rate("slm_pack_requests_completed_total"),
        power_watts=rate("slm_pack_energy_joules_total") or after.one("slm_pack_power_watts"),
        in_progress=_whole(after.one("slm_pack_router_in_progress")),
        queued=_whole(after.one("slm_pack_router_queue")),
        replicas=tuple(
            ReplicaActivity(
                int(index),
                int(in_flight.get(index, 0)),
                _whole(running.get(index)),
                _whole(waiting.get(index)),
                rate("slm_pack_replica_served_total", replica=index),
            )
            for index in sorted({*in_flight, *running}, key=int)
        ),
    )


def table(packs: Iterable[Activity]) -> Table:
    """A row for each pack, and below it one for each replica; 80 columns hold it."""
    found = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    found.add_column("PACK", no_wrap=True)
    for title in ("REPLICAS", "TOK/S", "REQ/S", "W", "J/TOKEN", "RUNNING", "WAITING"):
        found.add_column(title, justify="right", no_wrap=True)
    for pack in packs:
        name = f"{pack.pack} ({SIMULATED})" if pack.simulated else pack.pack
        if pack.silent:
            found.add_row(name, pack.silent)
            continue
        found.add_row(
            name,
            _figure(pack.in_rotation, ","),
            _figure(pack.output_tokens_per_second, ",.0f"),
            _figure(pack.requests_per_second, ",.1f"),
            _figure(pack.power_watts, ",.0f"),
            _figure(pack.joules_per_output_token, ".4f"),
            _figure(pack.in_progress, ","),
            _figure(pack.queued, ","),
            style="bold",
        )
        for one in pack.replicas:
            running = one.in_flight if one.running is None else one.running
            found.add_row(
                f"  replica {one.index}", "", "", _figure(one.answers_per_second, ",.1f"), "", "",
                _figure(running, ","), _figure(one.waiting, ","),
            )  # fmt: skip
    return found


def document(packs: Iterable[Activity]) -> dict[str, Any]:
    """For scripts; what is unknown is null."""
    return {
        "packs": [
            {
                "service": pack.service,
                "pack": pack.pack,
                "simulated": pack.simulated,
                "silent": pack.silent or None,
                "replicasInRotation": pack.in_rotation,
                "outputTokensPerSecond": pack.output_tokens_per_second,
                "requestsPerSecond": pack.requests_per_second,
                "powerWatts": pack.power_watts,
                "joulesPerOutputToken": pack.joules_per_output_token,
                "requestsInProgress": pack.in_progress,
                "requestsQueued": pack.queued,
                "replicas": [
                    {
                        "index": one.index,
                        "requestsInFlight": one.in_flight,
                        "running": one.running,
                        "waiting": one.waiting,
                        "answersPerSecond": one.answers_per_second,
                    }
                    for one in pack.replicas
                ],
            }
            for pack in packs
        ]
    }


def _difference(before: Reading, after: Reading, name: str, **labels: str) -> float | None:
    old, new = before.one(name, **labels), after.one(name, **labels)
    return None if old is None or new is None or new < old else new - old


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _figure(value: float | None, form: str) -> str:
    return UNKNOWN if value is None else format(value, form)
