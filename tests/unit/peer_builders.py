"""Builders for what a scaling policy sees."""

from __future__ import annotations

from dataclasses import replace

from slm_operator.simulate.seen import PackSeen, Policy, ReplicaSeen, Seen, Totals

NOTHING = Totals(0, 0, 0, 0)


def pack(
    running: int = 0, waiting: int = 0, kv: float = 0.0, *, engines: int = 1, slots: int = 100
) -> PackSeen:
    """A ready pack whose engines are all alike; figures are per engine."""
    replica = ReplicaSeen(running, waiting, kv, slots)
    return PackSeen(0, 0.0, 0.0, (replica,) * engines)


STARTING = PackSeen(0, 0.0, None, ())


def seen(
    *packs: PackSeen,
    now: float = 0.0,
    wanted: int | None = None,
    low: int = 1,
    high: int = 20,
    arrived: int = 0,
) -> Seen:
    named = tuple(replace(each, name=index) for index, each in enumerate(packs))
    count = len(packs) if wanted is None else wanted
    return Seen(now, count, named, low, high, replace(NOTHING, arrived=arrived))


class Driven:
    """Asks a policy at its period; what it wants is there, ready and loaded alike, at once."""

    def __init__(
        self, policy: Policy, packs: int = 1, *, starting: int = 0, low: int = 1, high: int = 20
    ) -> None:
        self.policy = policy
        self.wanted = packs
        self.now = 0.0
        self.starting = starting
        self.low = low
        self.high = high

    def step(self, load: PackSeen, arrived: int = 0) -> int:
        ready = self.wanted - self.starting
        packs = [load] * ready + [STARTING] * self.starting
        state = seen(
            *packs, now=self.now, wanted=self.wanted, low=self.low, high=self.high, arrived=arrived
        )
        self.wanted = self.policy.wanted(state)
        self.now += self.policy.period_seconds
        return self.wanted

    def run(self, seconds: float, load: PackSeen, arrived: int = 0) -> list[int]:
        until = self.now + seconds
        counts = []
        while self.now < until:
            counts.append(self.step(load, arrived))
        return counts
