"""What may run on a device that is, or is not, shared through MPS."""

from __future__ import annotations

import pytest

from slm_worker.gpu.base import MPS_NOT_NEEDED, DeviceIdentity, MpsStatus
from slm_worker.planning.footprint import ModelFootprint
from slm_worker.planning.memory import Measured
from slm_worker.planning.packing import LayoutError
from slm_worker.sizing import packing_of, target_of
from slm_worker.wire import Layout, MpsFallback, Plan

OPT = ModelFootprint(weights_bytes=2_631_516_160, kv_bytes_per_token=196_608, max_model_len=2048)
H100 = DeviceIdentity("NVIDIA", "H100", 64 * 10**9, simulated=False)
WITHOUT = MpsStatus("Unavailable", "no MPS here.")
TWO = Plan(generation=1, layout=Layout(replicas=2, max_num_seqs=256), rotation=2)


@pytest.mark.parametrize("mps", [MPS_NOT_NEEDED, MpsStatus("Running"), MpsStatus("Faulted")])
def test_a_shared_device_takes_as_many_as_fit(mps: MpsStatus) -> None:
    assert packing_of(OPT, H100, mps).max_replicas > 2
    assert target_of(TWO, OPT, H100, mps).replicas == 2


def test_without_mps_one_replica_runs_and_the_sum_says_why() -> None:
    packing = packing_of(OPT, H100, WITHOUT)
    assert packing.max_replicas == 1
    assert "Only one replica, for lack of MPS: no MPS here." in packing.message
    with pytest.raises(LayoutError):
        target_of(TWO, OPT, H100, WITHOUT)


def test_without_mps_replicas_take_turns_only_where_that_is_allowed() -> None:
    fallback: MpsFallback = "TimeSlicing"
    packing = packing_of(OPT, H100, WITHOUT, fallback)
    assert packing.max_replicas == packing_of(OPT, H100, MpsStatus("Running")).max_replicas
    assert "take turns on the GPU, for lack of MPS: no MPS here." in packing.message
    assert target_of(TWO, OPT, H100, WITHOUT, fallback).replicas == 2


def test_the_reserve_is_kept_free_of_replicas() -> None:
    reserve_bytes = 32 * 10**9
    target = target_of(TWO, OPT, H100, MPS_NOT_NEEDED, reserve_bytes=reserve_bytes)
    assert target.settings.gpu_memory_utilization == pytest.approx(0.25, abs=0.0002)
    with pytest.raises(LayoutError, match=r"29\.8 GiB are kept free"):
        wide = Plan(generation=1, layout=Layout(replicas=16, max_num_seqs=256), rotation=1)
        target_of(wide, OPT, H100, MPS_NOT_NEEDED, reserve_bytes=reserve_bytes)


def test_a_layout_that_does_not_fit_is_refused_with_what_would_make_it_fit() -> None:
    wide = Plan(generation=1, layout=Layout(replicas=16, max_num_seqs=256), rotation=1)
    with pytest.raises(LayoutError, match=r"What would make it fit: .* GPU with at least \d+ GiB"):
        target_of(wide, OPT, H100, MPS_NOT_NEEDED)


def test_for_lack_of_mps_no_memory_is_offered_as_a_remedy() -> None:
    with pytest.raises(LayoutError) as caught:
        target_of(TWO, OPT, H100, WITHOUT)
    assert "What would make it fit" not in str(caught.value)


def test_a_layout_in_place_keeps_what_its_replicas_were_given() -> None:
    settings = target_of(TWO, OPT, H100, MPS_NOT_NEEDED).settings
    smaller = OPT.model_copy(update={"measured": Measured(context_bytes=1)})
    packing = packing_of(smaller, H100, MPS_NOT_NEEDED, plan=TWO, settings=settings)
    assert packing.capacity is not None
    assert packing.capacity.kv_cache_bytes == settings.kv_cache_bytes
    anew = packing_of(smaller, H100, MPS_NOT_NEEDED, plan=TWO).capacity
    assert anew is not None
    assert anew.kv_cache_bytes > packing.capacity.kv_cache_bytes
