"""The simulated GPU keeps account of memory, activity and energy."""

from __future__ import annotations

import random

import pytest

from simulated_gpu import IDLE_WATTS, FakeClock, FlatPace, attach, gpu, warmed_up
from slm_worker.gpu.simulated.faults import FaultKind, Injection
from slm_worker.gpu.simulated.state import (
    STALL_POLL_SECONDS,
    WARM_UP_FACTOR,
    WARM_UP_STEPS,
    NoSuchEngineError,
    NotUsableError,
    OutOfMemoryError,
    SimulatedGpu,
)


def test_memory_is_refused_when_exhausted_and_free_after_detaching() -> None:
    device = gpu()
    attach(device, 1, memory_bytes=60)
    with pytest.raises(OutOfMemoryError, match="asked for 60 bytes, 40 of 100 are free"):
        attach(device, 2, memory_bytes=60)
    device.detach(1)
    attach(device, 2, memory_bytes=60)

    assert device.memory_used_bytes == 60


def test_an_engine_gives_memory_back_and_takes_it_again_if_it_is_free() -> None:
    device = gpu()
    attach(device, 1, memory_bytes=60)
    device.resize(1, 10)
    attach(device, 2, memory_bytes=50)
    with pytest.raises(OutOfMemoryError, match="asked for 60 bytes, 50 of 100 are free"):
        device.resize(1, 60)
    assert device.memory_used_bytes == 60

    device.detach(2)
    device.resize(1, 60)
    assert device.process_memory_bytes == {1001: 60}


def test_energy_is_power_over_time_between_changes() -> None:
    clock = FakeClock()
    device = gpu(clock)
    attach(device, 1)
    clock.now += 10  # idle
    device.step(1, 100)
    clock.now += 20  # one replica
    device.step(1, 0)
    clock.now += 30  # idle again

    assert device.meter.joules == pytest.approx(40 * IDLE_WATTS + 20 * 200)


def test_an_engine_that_goes_away_draws_nothing_more() -> None:
    clock = FakeClock()
    device = gpu(clock)
    attach(device, 1)
    device.step(1, 100)
    device.detach(1)
    clock.now += 1

    assert device.meter.joules == pytest.approx(IDLE_WATTS)


def test_a_second_active_engine_slows_the_first() -> None:
    device = gpu()
    warmed_up(device, 1, 2)

    alone = device.step(1, 100).seconds
    device.step(2, 100)
    together = device.step(1, 100).seconds

    assert alone == pytest.approx(0.01, rel=0.03)
    assert together == pytest.approx(0.02, rel=0.03)


def test_engines_of_unlike_models_count_for_equal_parts_of_the_power() -> None:
    clock = FakeClock()
    device = gpu(clock)
    attach(device, 1, pace=FlatPace(watts=100))
    attach(device, 2, pace=FlatPace(watts=400))
    device.step(1, 8)
    device.step(2, 8)
    clock.now += 2

    assert device.meter.joules == pytest.approx(2 * 250)


def test_step_times_vary_by_a_hundredth_around_the_pace_and_repeat_with_the_seed() -> None:
    def times(seed: int) -> list[float]:
        device = gpu(rng=random.Random(seed))
        warmed_up(device, 1)
        return [device.step(1, 100).seconds for _ in range(2000)]

    assert times(1) == times(1) != times(2)
    mean = sum(times(1)) / 2000
    assert mean == pytest.approx(0.01, rel=0.002)
    assert min(times(1)) < 0.985 * mean < 1.015 * mean < max(times(1))


def test_the_first_steps_of_an_engine_take_longer() -> None:
    device = gpu()
    attach(device, 1)
    times = [device.step(1, 100).seconds for _ in range(2 * WARM_UP_STEPS)]

    assert times[0] == pytest.approx(WARM_UP_FACTOR * 0.01, rel=0.03)
    assert times[0] > times[WARM_UP_STEPS // 2] > times[WARM_UP_STEPS]
    assert times[WARM_UP_STEPS:] == pytest.approx([0.01] * WARM_UP_STEPS, rel=0.03)


def test_what_a_process_held_is_free_when_it_is_released() -> None:
    device = gpu()
    attach(device, 1, memory_bytes=60)
    attach(device, 2, memory_bytes=30)
    device.release([1001, 4])

    assert device.process_memory_bytes == {1002: 30}


# Faults.


def inject(device: SimulatedGpu, kind: FaultKind, **fields: float | int) -> dict[int, str]:
    injection = Injection.model_validate({"kind": kind, **fields})
    return {number: ending.value for number, ending in device.inject(injection).items()}


def test_a_slow_start_is_for_the_next_starts_only() -> None:
    device = gpu()
    inject(device, FaultKind.SLOW_START, seconds=5, starts=2)

    assert [attach(device, number) for number in (1, 2, 3)] == [5, 5, 0]


def test_a_start_without_memory_fails_as_often_as_told() -> None:
    device = gpu()
    inject(device, FaultKind.START_OUT_OF_MEMORY)
    with pytest.raises(OutOfMemoryError, match="SIMULATED fault"):
        attach(device, 1)

    attach(device, 1)


def test_a_hung_engine_stalls_draws_nothing_and_goes_on_after_its_time() -> None:
    clock = FakeClock()
    device = gpu(clock)
    warmed_up(device, 1, 2)
    device.step(1, 100)
    assert inject(device, FaultKind.HANG, pid=1001, seconds=3.1) == {}

    stalled = device.step(1, 100)
    assert stalled.stalled
    assert stalled.seconds == STALL_POLL_SECONDS
    assert not device.step(2, 100).stalled
    assert device.step(2, 0).seconds == 0
    before = device.meter.joules
    clock.now += 3
    assert device.meter.joules - before == pytest.approx(3 * IDLE_WATTS)
    assert device.step(1, 100).seconds == pytest.approx(0.1)
    clock.now += 0.1
    assert not device.step(1, 100).stalled


def test_a_preemption_storm_takes_kv_cache_until_it_is_healed() -> None:
    device = gpu()
    attach(device, 1)
    inject(device, FaultKind.PREEMPTION_STORM, kv_share=0.25)
    assert device.step(1, 8).kv_share == 0.25

    inject(device, FaultKind.HEAL)
    assert device.step(1, 8).kv_share == 1.0


def test_a_crash_ends_the_named_engine_only() -> None:
    device = gpu()
    attach(device, 1)
    attach(device, 2)

    assert inject(device, FaultKind.CRASH, pid=1002) == {2: "Crash"}
    assert inject(device, FaultKind.OUT_OF_MEMORY) == {1: "OutOfMemory", 2: "OutOfMemory"}


def test_an_engine_that_has_to_end_gets_no_token_more() -> None:
    device = gpu()
    attach(device, 1)
    inject(device, FaultKind.CRASH)

    assert device.step(1, 8).stalled


def test_a_fault_for_a_process_that_is_no_engine_is_refused() -> None:
    device = gpu()
    attach(device, 1)

    with pytest.raises(NoSuchEngineError, match=r"pid 7 is no engine .*use one of \[1001"):
        inject(device, FaultKind.HANG, pid=7)


def test_an_mps_fault_ends_all_and_lets_nobody_in_until_the_last_is_gone() -> None:
    device = gpu()
    attach(device, 1)
    attach(device, 2)
    assert inject(device, FaultKind.MPS_FAULT, pid=1002) == {1: "MpsBystander", 2: "MpsCulprit"}
    assert (device.mps.faulted, device.mps.count) == (True, 1)
    assert device.mps.suspect_pids == (1002,)

    device.detach(2)
    with pytest.raises(NotUsableError, match="1 clients of before the fault are still there"):
        attach(device, 3)
    device.recover_mps()
    assert device.mps.faulted, "a client of before the fault is still there"
    device.detach(1)
    device.recover_mps()
    assert not device.mps.faulted
    assert not device.mps.suspect_pids
    attach(device, 3)


def test_an_mps_fault_without_a_culprit_suspects_nobody() -> None:
    device = gpu()
    attach(device, 1)

    assert inject(device, FaultKind.MPS_FAULT) == {1: "MpsBystander"}
    assert device.mps.suspect_pids == ()


def test_a_lost_gpu_ends_all_and_takes_nobody_until_it_is_mended() -> None:
    device = gpu(FakeClock())
    attach(device, 1)
    assert inject(device, FaultKind.GPU_LOST) == {1: "GpuLost"}
    device.detach(1)
    with pytest.raises(NotUsableError, match="fallen off the bus"):
        attach(device, 2)
    assert device.lost_at_seconds == 1000.0

    inject(device, FaultKind.HEAL)
    attach(device, 2)
