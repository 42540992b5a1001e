"""When a probe is given up before its window is full, and for how long that is remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from slm_operator.api.status import FAILED_LAYOUTS_KEPT, FailedLayout
from slm_operator.decide.snapshot import Unstartable
from slm_operator.decide.times import moment
from slm_operator.pareto.objective import Limits
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.window import Measurement, Sample, WindowRules, evaluate
from slm_worker.wire import PackState, ReplicaPhase

LAYOUT_GIVE_UP_FAILURES = 3
"""A replica that fails this often in a row marks its layout as one that cannot be started.
Counted, not timed: a start takes seconds or minutes, depending on engine and model."""
AT_ONCE = frozenset({"OutOfMemory", "KVCacheTooSmall"})
"""Problems of the layout itself: another start would end as the first did."""
FAILURE_EXPIRY = timedelta(hours=1)
"""A search that is open later may try the layout again: the driver, its neighbours or the traffic
may have changed."""
FAULT_EXPIRY = timedelta(minutes=15)
"""After a fatal fault under MPS, which lies more often in a request than in a layout."""
BREACH_SECONDS = 10.0
"""A third of the shortest window tells a clear breach."""
CLEAR_BREACH = 0.25
"""Excess over a limit that a short window leaves no doubt about: its users wait meanwhile."""


def failed_layouts(
    state: PackState, probe: Probe, now: str, *, has_served: bool
) -> tuple[Unstartable, ...]:
    """The probe's layout and all between it and what did start, if its replicas fail again and
    again, or once for a reason that lies in the layout; the layout alone after a fault of MPS.
    ``has_served``: in the running plan. A fault lasts while the GPU recovers, and one that was
    there before is none of this layout's."""
    if state.gpu.mps == "Faulted":
        if not has_served:
            return ()
        why = f"MPSFaulted: {state.gpu.mps_message}"
        until = _later(now, FAULT_EXPIRY)
        return (Unstartable(probe.layout_replicas, probe.max_num_seqs, why, until),)
    ready = sum(r.phase is ReplicaPhase.READY for r in state.replicas)
    failing = [
        r.problem
        for r in state.replicas
        if r.phase is not ReplicaPhase.READY
        and r.problem is not None
        and r.failures >= (1 if r.problem.reason in AT_ONCE else LAYOUT_GIVE_UP_FAILURES)
    ]
    if not failing:
        return ()
    why, until = f"{failing[0].reason}: {failing[0].message}", _later(now, FAILURE_EXPIRY)
    fewest = min(ready + 1, probe.layout_replicas) if ready else probe.layout_replicas
    layouts = range(fewest, probe.layout_replicas + 1)
    return tuple(Unstartable(n, probe.max_num_seqs, why, until) for n in layouts)


def with_failed(
    known: tuple[Unstartable, ...], failed: Iterable[Unstartable]
) -> tuple[Unstartable, ...]:
    """Each layout once, since the smallest is tried on and on and fails in every pass; the newest,
    as many as the status holds."""
    layouts = {(u.replicas, u.max_num_seqs) for u in known}
    fresh = (u for u in failed if (u.replicas, u.max_num_seqs) not in layouts)
    return (*known, *fresh)[-FAILED_LAYOUTS_KEPT:]


def remembered(failed: Iterable[Unstartable], now: str) -> tuple[Unstartable, ...]:
    """Those that are not tried again yet."""
    return tuple(u for u in failed if moment(u.until) > moment(now))


def breach(
    samples: Sequence[Sample],
    rules: WindowRules,
    limits: Limits,
    as_point: Callable[[Measurement], OperatingPoint],
) -> Measurement | None:
    """The window so far, if it breaks a limit without doubt: it says enough, and the pack's users
    need not wait for the rest of it."""
    seconds = min(BREACH_SECONDS, rules.min_seconds)
    found = evaluate(samples, replace(rules, min_seconds=seconds, max_seconds=seconds))
    if not isinstance(found, Measurement):
        return None
    return found if limits.excess(as_point(found)) > CLEAR_BREACH else None


def to_status(failed: Iterable[Unstartable]) -> tuple[FailedLayout, ...]:
    return tuple(
        FailedLayout(
            replicas_per_pack=u.replicas, max_num_seqs=u.max_num_seqs, why=u.why, until=u.until
        )
        for u in failed
    )


def from_status(failed: Iterable[FailedLayout]) -> tuple[Unstartable, ...]:
    return tuple(Unstartable(f.replicas_per_pack, f.max_num_seqs, f.why, f.until) for f in failed)


def _later(now: str, duration: timedelta) -> str:
    return (moment(now) + duration).strftime("%Y-%m-%dT%H:%M:%SZ")
