"""Which layouts fit, and each replica's share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker import wire
from slm_worker.gpu.base import DeviceIdentity
from slm_worker.planning.footprint import ModelFootprint
from slm_worker.planning.packing import (
    MIB,
    OVERHEAD_BYTES,
    LayoutError,
    max_replicas,
    share,
)

GIB = 2**30
OPT = ModelFootprint(weights_bytes=2_631_516_160, kv_bytes_per_token=196_608, max_model_len=2048)
SMOLLM2_FLOAT32 = ModelFootprint(
    weights_bytes=538_060_032, kv_bytes_per_token=46_080, max_model_len=512
)
H100_64GB = DeviceIdentity("Simulated", "H100 64 GB", 64 * 10**9, simulated=True)
CPU_24GIB = DeviceIdentity("CPU", "CPU", 24 * GIB, simulated=False)


def gpu(memory_bytes: int) -> DeviceIdentity:
    return DeviceIdentity("NVIDIA", "GPU", memory_bytes, simulated=False)


footprints = st.builds(
    ModelFootprint,
    weights_bytes=st.integers(10**7, 20 * 10**9),
    kv_bytes_per_token=st.integers(1_000, 1_000_000),
    max_model_len=st.integers(16, 131_072),
)
devices = st.builds(
    DeviceIdentity,
    kind=st.sampled_from(["NVIDIA", "CPU", "Simulated"]),
    name=st.just("device"),
    memory_bytes=st.integers(4 * GIB, 200 * GIB),
    simulated=st.booleans(),
)
sequences = st.integers(1, 1024)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_opt_1_3b_packs_four_replicas_of_256_sequences_on_an_h100(replicas: int) -> None:
    layout = wire.Layout(replicas=replicas, max_num_seqs=256)
    budget_bytes = 64 * 10**9 * 9 // 10
    expected_bytes = budget_bytes // replicas - OPT.weights_bytes - OVERHEAD_BYTES
    result = share(layout, OPT, H100_64GB)
    assert result.kv_cache_bytes == expected_bytes // MIB * MIB
    assert result.gpu_memory_utilization == pytest.approx(0.9 / replicas, abs=0.0001)


def test_the_sum_is_told_in_words() -> None:
    packing = max_replicas(OPT, gpu(64 * GIB))
    assert packing.max_replicas == 13
    assert packing.weights_bytes == 2_631_516_160
    assert packing.kv_bytes_per_token == 196_608
    assert packing.message == (
        "90% of 64.0 GiB is 57.6 GiB; a replica needs 4.3 GiB: 2.5 GiB weights, 1.5 GiB overhead "
        "and at least 384 MiB KV cache for one sequence of 2,048 tokens of 196,608 bytes; "
        "so 13 fit."
    )


def test_a_model_that_does_not_fit_once_comes_with_a_remedy() -> None:
    packing = max_replicas(OPT, gpu(4 * GIB))
    assert packing.max_replicas == 0
    assert "so 0 fit. Use a smaller model" in packing.message


def test_a_layout_beyond_memory_is_refused_with_what_would_fit() -> None:
    with pytest.raises(LayoutError, match="at most 13 do") as caught:
        share(wire.Layout(replicas=14, max_num_seqs=256), OPT, gpu(64 * GIB))
    assert caught.value.packing.max_replicas == 13


def test_a_small_model_stops_at_the_wire_limit() -> None:
    packing = max_replicas(SMOLLM2_FLOAT32, gpu(140 * GIB))
    assert packing.max_replicas == wire.MAX_REPLICAS_PER_PACK


def test_a_cpu_host_gives_half_its_memory_and_no_more_kv_cache_than_is_of_use() -> None:
    assert max_replicas(SMOLLM2_FLOAT32, CPU_24GIB).max_replicas == 5
    result = share(wire.Layout(replicas=2, max_num_seqs=8), SMOLLM2_FLOAT32, CPU_24GIB)
    assert result.kv_cache_bytes == 180 * MIB  # 8 x 512 tokens x 46,080 bytes
    assert result.gpu_memory_utilization is None


def test_an_unknown_model_is_left_to_the_engine() -> None:
    packing = max_replicas(None, H100_64GB)
    assert packing.max_replicas == wire.MAX_REPLICAS_PER_PACK
    assert "the engine's own check" in packing.message
    layout = wire.Layout(replicas=3, max_num_seqs=256)
    assert share(layout, None, H100_64GB).gpu_memory_utilization == pytest.approx(0.3)
    assert share(layout, None, H100_64GB).kv_cache_bytes is None
    assert share(layout, None, CPU_24GIB).gpu_memory_utilization is None


@given(footprints, devices, sequences)
def test_every_count_up_to_the_greatest_fits_and_none_beyond(
    footprint: ModelFootprint, device: DeviceIdentity, max_num_seqs: int
) -> None:
    greatest = max_replicas(footprint, device).max_replicas
    for replicas in range(1, wire.MAX_REPLICAS_PER_PACK + 1):
        layout = wire.Layout(replicas=replicas, max_num_seqs=max_num_seqs)
        if replicas <= greatest:
            share(layout, footprint, device)
        else:
            with pytest.raises(LayoutError):
                share(layout, footprint, device)


@given(footprints, devices, sequences, st.data())
def test_shares_stay_in_the_budget_and_hold_what_a_replica_needs(
    footprint: ModelFootprint, device: DeviceIdentity, max_num_seqs: int, data: st.DataObject
) -> None:
    greatest = max_replicas(footprint, device).max_replicas
    if greatest == 0:
        return
    replicas = data.draw(st.integers(1, greatest))
    result = share(wire.Layout(replicas=replicas, max_num_seqs=max_num_seqs), footprint, device)
    kv_bytes = result.kv_cache_bytes
    assert kv_bytes is not None
    assert kv_bytes % MIB == 0
    assert kv_bytes >= footprint.max_model_len * footprint.kv_bytes_per_token
    used_bytes = replicas * (footprint.weights_bytes + OVERHEAD_BYTES + kv_bytes)
    fraction = 0.5 if device.kind == "CPU" else 0.9
    assert used_bytes <= fraction * device.memory_bytes
    if device.kind == "CPU":
        assert result.gpu_memory_utilization is None
    else:
        assert result.gpu_memory_utilization is not None
        assert replicas * result.gpu_memory_utilization <= 0.9 + 1e-9


@given(footprints, st.integers(4 * GIB, 100 * GIB), st.integers(0, 100 * GIB))
def test_more_memory_never_fits_fewer(
    footprint: ModelFootprint, memory_bytes: int, more_bytes: int
) -> None:
    small = max_replicas(footprint, gpu(memory_bytes)).max_replicas
    large = max_replicas(footprint, gpu(memory_bytes + more_bytes)).max_replicas
    assert small <= large
