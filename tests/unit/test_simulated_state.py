"""The simulated GPU keeps account of memory, activity and energy."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from slm_worker.gpu.curves import IDLE_WATTS, opt_1_3b_on_h100
from slm_worker.gpu.simulated.protocol import answer
from slm_worker.gpu.simulated.state import OutOfMemoryError, SimulatedGpu


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def gpu(clock: FakeClock | None = None, seed: int = 0) -> SimulatedGpu:
    return SimulatedGpu(
        opt_1_3b_on_h100(),
        memory_bytes=100,
        clock=clock or FakeClock(),
        rng=random.Random(seed),
    )


def test_memory_is_refused_when_exhausted_and_free_after_detaching() -> None:
    device = gpu()
    device.attach(1, 60)
    with pytest.raises(OutOfMemoryError, match="asked for 60 bytes, 40 of 100 are free"):
        device.attach(2, 60)
    device.detach(1)
    device.attach(2, 60)

    assert device.memory_used_bytes == 60


def test_energy_is_power_over_time_between_changes() -> None:
    clock = FakeClock()
    device = gpu(clock)
    device.attach(1, 10)
    clock.now += 10  # idle
    device.step(1, 256)
    clock.now += 20  # one full replica
    device.step(1, 0)
    clock.now += 30  # idle again

    assert device.energy_millijoules() == pytest.approx(1000 * (40 * IDLE_WATTS + 20 * 335.1))


def test_an_engine_that_goes_away_draws_nothing_more() -> None:
    device = gpu()
    device.attach(1, 10)
    device.step(1, 256)
    device.detach(1)

    assert device.power_watts == IDLE_WATTS


def test_a_second_active_engine_slows_the_first() -> None:
    device = gpu()
    device.attach(1, 10)
    device.attach(2, 10)
    alone = device.step(1, 256)
    device.step(2, 256)
    together = device.step(1, 256)

    assert alone == pytest.approx(256 / 7886.7, rel=0.03)
    assert together == pytest.approx(512 / 10641.9, rel=0.03)


def test_step_times_vary_by_a_hundredth_around_the_curve_and_repeat_with_the_seed() -> None:
    def times(seed: int) -> list[float]:
        device = gpu(seed=seed)
        device.attach(1, 10)
        return [device.step(1, 256) for _ in range(2000)]

    assert times(1) == times(1) != times(2)
    mean = sum(times(1)) / 2000
    assert mean == pytest.approx(256 / 7886.7, rel=0.002)
    assert min(times(1)) < 0.985 * mean < 1.015 * mean < max(times(1))


def ask(device: SimulatedGpu, engine: int = 1, **request: Any) -> dict[str, object]:
    return answer(device, engine, json.dumps(request).encode())


def test_the_protocol_attaches_steps_and_reads() -> None:
    device = gpu()

    assert ask(device, op="attach", memory_bytes=40) == {}
    step_seconds = ask(device, op="step", running=16)["step_seconds"]
    assert step_seconds == pytest.approx(16 / 2931.5, rel=0.03)
    assert ask(device, op="read") == {
        "energy_millijoules": 0,
        "power_watts": 286.5,
        "memory_used_bytes": 40,
        "memory_bytes": 100,
        "name": "Simulated H100 64GB",
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not a line of JSON"),
        (b"\xff\n", "not a line of JSON"),
        (b"[]", "not a JSON object"),
        (b'{"op": "reset"}', "op 'reset': use read, attach or step"),
        (b'{"op": "attach"}', "memory_bytes None: use a whole number"),
        (b'{"op": "attach", "memory_bytes": -1}', "memory_bytes -1"),
        (b'{"op": "attach", "memory_bytes": true}', "memory_bytes True"),
        (b'{"op": "step", "running": 4097}', "running 4097: use a whole number from 0 to 4096"),
        (b'{"op": "step", "running": 1}', "step before attach"),
    ],
)
def test_the_protocol_refuses(line: bytes, message: str) -> None:
    refusal = answer(gpu(), 1, line)

    assert refusal["reason"] == "InvalidRequest"
    assert message in str(refusal["error"])


def test_the_protocol_refuses_a_second_attach() -> None:
    device = gpu()
    ask(device, op="attach", memory_bytes=1)

    assert "attached already" in str(ask(device, op="attach", memory_bytes=1)["error"])


def test_the_protocol_reports_exhausted_memory() -> None:
    assert ask(gpu(), op="attach", memory_bytes=101)["reason"] == "OutOfMemory"
