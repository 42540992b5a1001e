"""What `slmctl top` makes of two readings of a pack's metrics."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from builders import pack_state
from slm_operator.cli.activity import Activity, activity, document, read, table
from slm_worker.pack_metrics import exposition
from slm_worker.wire import (
    Counters,
    ReplicaPhase,
    ReplicaState,
    RoutedReplica,
    RouterState,
)


def metrics(seconds: float, *, tokens: int, joules: float | None, answers: int) -> str:
    """As a pack with one busy replica exposes them."""
    busy = ReplicaState(
        index=0,
        phase=ReplicaPhase.READY,
        in_rotation=True,
        max_num_seqs=16,
        kv_cache_bytes=None,
        pid=1,
        starts=1,
        running=15,
        waiting=1,
    )
    routed = RoutedReplica(index=0, in_flight=16, served=answers)
    base = pack_state()
    power_watts = None if joules is None else 300.0
    state = pack_state(
        clock_seconds=seconds + 0.4,
        gpu=base.gpu.model_copy(update={"power_watts": power_watts}),
        router_queue=3,
        router=RouterState(in_progress=19, replicas=(routed,)),
        replicas=(busy,),
        counters=Counters(
            sampled_at_seconds=seconds,
            output_tokens=tokens,
            requests_completed=answers,
            energy_millijoules=None if joules is None else int(joules * 1000),
        ),
    )
    return exposition(state).decode()


def between(before: str, after: str) -> Activity:
    return activity("chat", "chat-pack-0", False, read(before), read(after))


def test_rates_are_differences_by_the_agents_own_clock() -> None:
    first = metrics(100, tokens=1000, joules=5000, answers=10)
    found = between(first, metrics(102, tokens=21_000, joules=5800, answers=90))
    assert found.output_tokens_per_second == 10_000
    assert found.power_watts == 400
    assert found.joules_per_output_token == 0.04
    assert found.requests_per_second == 40
    assert (found.in_rotation, found.in_progress, found.queued) == (1, 19, 3)
    (replica,) = found.replicas
    assert (replica.running, replica.waiting, replica.in_flight) == (15, 1, 16)
    assert replica.answers_per_second == 40


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(metrics(100, tokens=1000, joules=5000, answers=10), id="no sample between"),
        pytest.param(metrics(3, tokens=50, joules=20, answers=1), id="the agent began anew"),
    ],
)
def test_what_no_two_samples_tell_is_unknown(after: str) -> None:
    found = between(metrics(100, tokens=1000, joules=5000, answers=10), after)
    assert found.output_tokens_per_second is None
    assert found.joules_per_output_token is None
    assert found.power_watts == 300, "the device's own reading is left"
    assert found.in_progress == 19


def test_nobody_measures_power_on_a_cpu() -> None:
    first = metrics(0, tokens=0, joules=None, answers=0)
    found = between(first, metrics(1, tokens=100, joules=None, answers=1))
    assert found.output_tokens_per_second == 100
    assert (found.power_watts, found.joules_per_output_token) == (None, None)


def test_what_is_no_metrics_text_is_refused() -> None:
    with pytest.raises(ValueError):
        read("<html>no</html>")


def test_the_table_says_what_is_unknown_and_what_is_simulated() -> None:
    before, after = (metrics(t, tokens=t * 10_642, joules=t * 443, answers=t) for t in (1, 3))
    packs = [
        activity("chat", "chat-pack-0", True, read(before), read(after)),
        Activity("chat", "chat-pack-1", True, silent="Unschedulable"),
        Activity("chat", "chat-pack-2", False),
    ]
    console = Console(file=io.StringIO(), width=80)
    console.print(table(packs))
    shown = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    first = "chat-pack-0 (simulated) 1 10,642 1.0 443 0.0416 19 3"
    assert shown[1] == first.split()
    assert shown[2] == ["replica", "0", "1.0", "15", "1"]
    assert shown[3][-1] == "Unschedulable"
    assert shown[4] == ["chat-pack-2", *("-",) * 7]
    silent, unknown = document(packs)["packs"][1:]
    assert silent["silent"] == "Unschedulable"
    assert unknown["silent"] is None and unknown["outputTokensPerSecond"] is None
