"""Which layouts fit, each replica's share, and what would make fit what does not."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from published_models import MODELS
from slm_worker import wire
from slm_worker.gpu.base import DeviceIdentity
from slm_worker.gpu.simulated.pace import RUNTIME_BYTES
from slm_worker.planning.footprint import ModelFootprint, footprint, parse_config
from slm_worker.planning.memory import (
    GIB,
    MIB,
    Measured,
    MeasuredBatch,
    Runtime,
    SlidingWindow,
)
from slm_worker.planning.overhead import fixed_lines, step_tokens
from slm_worker.planning.packing import LayoutError, max_replicas, share
from slm_worker.planning.remedies import remedies


def model(name: str, *args: str) -> ModelFootprint:
    config = next(published.config for published in MODELS if published.name == name)
    parsed = parse_config(config, "config.json")
    assert parsed is not None
    found = footprint(parsed, None, args)
    assert found is not None
    return found


def gpu(memory_bytes: int) -> DeviceIdentity:
    return DeviceIdentity("NVIDIA", "GPU", memory_bytes, simulated=False)


def layout(replicas: int, max_num_seqs: int = 256) -> wire.Layout:
    return wire.Layout(replicas=replicas, max_num_seqs=max_num_seqs)


def total(lines: tuple[wire.MemoryLine, ...]) -> int:
    return sum(line.size_bytes for line in lines)


OPT = model("OPT-1.3B")
SMOLLM2_FLOAT32 = model("SmolLM2-135M", "--dtype", "float32", "--max-model-len", "512")
H100_64GB = DeviceIdentity("Simulated", "H100 64 GB", 64 * 10**9, simulated=True)
CPU_24GIB = DeviceIdentity("CPU", "CPU", 24 * GIB, simulated=False)

footprints = st.builds(
    ModelFootprint,
    weights_bytes=st.integers(10**7, 20 * 10**9),
    kv_bytes_per_token=st.integers(1_000, 1_000_000),
    max_model_len=st.integers(16, 131_072),
    sliding=st.none()
    | st.builds(
        SlidingWindow,
        window_tokens=st.integers(1, 8192),
        windowed_bytes_per_token=st.integers(1_000, 100_000),
        full_bytes_per_token=st.integers(0, 100_000),
    ),
    runtime=st.builds(Runtime, cuda_graphs=st.booleans(), chunked_prefill=st.booleans()),
)
devices = st.builds(
    DeviceIdentity,
    kind=st.sampled_from(["NVIDIA", "CPU", "Simulated"]),
    name=st.just("device"),
    memory_bytes=st.integers(4 * GIB, 200 * GIB),
    simulated=st.booleans(),
)
sequences = st.integers(1, 256)
reserves = st.none() | st.integers(0, 8 * GIB)


class TestTheSum:
    @pytest.mark.parametrize("replicas", [1, 2, 4, 8])
    def test_opt_1_3b_packs_eight_replicas_of_256_sequences_on_an_h100(self, replicas: int) -> None:
        result = share(layout(replicas), OPT, H100_64GB)
        fixed_bytes = total(fixed_lines(OPT, H100_64GB, 256))
        budget_bytes = 64 * 10**9 * 9 // 10
        expected_bytes = budget_bytes // replicas - fixed_bytes
        assert result.kv_cache_bytes == expected_bytes // MIB * MIB
        assert result.gpu_memory_utilization == pytest.approx(0.9 / replicas, abs=0.0002)

    def test_line_by_line(self) -> None:
        packing = max_replicas(OPT, gpu(80 * GIB))
        assert [(line.what, line.size_bytes) for line in packing.lines] == [
            ("weights", 2_631_516_160),
            ("CUDA context and libraries", GIB),
            # a step of 8,192 tokens: residual, queries, keys, values and both sides of the MLP in
            # 16 bits; 256 rows of logits
            (
                "activations for 8,192 tokens a step",
                8192 * (6 * 2048 + 2 * 8192) * 2 + 256 * 50272 * 14,
            ),
            # 1, 2, 4, 8 to 248 by 8, 256 to 512 (256) by 16: 51 and 35 graphs of 24 layers
            ("CUDA graphs", (51 + 35) * 24 * 256 * 1024),
            # and a block of 16, which vLLM keeps empty
            ("KV cache for one sequence of 2,048 tokens", (2048 + 16) * 196_608),
        ]

    def test_in_words(self) -> None:
        packing = max_replicas(OPT, gpu(80 * GIB))
        assert packing.message == (
            "Of 80.0 GiB 8.0 GiB are kept free, so replicas have 72.0 GiB; each needs 4.9 GiB: "
            "weights 2.5 GiB (estimated), CUDA context and libraries 1.0 GiB (estimated), "
            "activations for 8,192 tokens a step 620 MiB (estimated), CUDA graphs 516 MiB "
            "(estimated), KV cache for one sequence of 2,048 tokens 387 MiB (estimated); "
            "so 14 fit."
        )

    def test_of_a_planned_layout_holds_the_kv_cache_that_each_gets(self) -> None:
        load = wire.Load(prompt_tokens=111, output_tokens=289)
        packing = max_replicas(OPT, H100_64GB, layout=layout(4), load=load)
        granted = share(layout(4), OPT, H100_64GB).kv_cache_bytes
        assert granted is not None
        assert packing.lines[-1].what == "KV cache"
        assert packing.lines[-1].size_bytes == granted
        assert packing.capacity is not None
        assert packing.capacity.sequence_tokens == 400
        assert packing.capacity.sequences == granted // (400 * 196_608)
        assert packing.capacity.tokens == packing.capacity.sequences * 400

    def test_without_an_expected_load_capacity_is_told_for_the_longest_sequence(self) -> None:
        packing = max_replicas(OPT, H100_64GB, layout=layout(2))
        assert packing.capacity is not None
        assert packing.capacity.sequence_tokens == 2048

    @pytest.mark.parametrize(
        ("name", "tokens", "reported_gib"),
        [("Llama-3.1-8B", 8192, 1.26), ("Qwen2.5-0.5B", 2048, 0.50)],
    )
    def test_activations_are_a_little_more_than_vllm_reports(
        self, name: str, tokens: int, reported_gib: float
    ) -> None:
        found = model(name, "--max-num-batched-tokens", str(tokens))
        activations = fixed_lines(found, gpu(80 * GIB), 256)[2].size_bytes / GIB
        assert reported_gib <= activations <= 1.2 * reported_gib

    @pytest.mark.parametrize("max_num_seqs", [1, 8, 256, 512])
    def test_overhead_covers_what_the_simulated_engine_takes(self, max_num_seqs: int) -> None:
        fixed_bytes = total(fixed_lines(OPT, H100_64GB, max_num_seqs))
        assert fixed_bytes >= OPT.weights_bytes + RUNTIME_BYTES

    def test_without_cuda_graphs_there_is_no_line_of_them(self) -> None:
        eager = model("OPT-1.3B", "--enforce-eager")
        whats = [line.what for line in max_replicas(eager, H100_64GB).lines]
        assert "CUDA graphs" not in whats
        assert (
            max_replicas(eager, H100_64GB).max_replicas > max_replicas(OPT, H100_64GB).max_replicas
        )

    def test_adapters_have_cuda_graphs_of_their_own(self) -> None:
        adapted = model("OPT-1.3B", "--enable-lora")
        plain, twice = (fixed_lines(one, H100_64GB, 256)[3].size_bytes for one in (OPT, adapted))
        assert twice == 2 * plain

    def test_what_was_measured_replaces_the_estimate_at_its_batch(self) -> None:
        batch = MeasuredBatch(max_num_seqs=256, graphs_bytes=5, activations_bytes=7)
        measured = Measured(context_bytes=3, batches=(batch,))
        known = OPT.model_copy(update={"measured": measured, "weights_source": "measured"})
        lines = max_replicas(known, H100_64GB).lines
        assert [line.size_bytes for line in lines[:4]] == [2_631_516_160, 3, 7, 5]
        assert [line.source for line in lines] == ["measured"] * 4 + ["estimated"]
        at_64 = fixed_lines(known, H100_64GB, 64)
        assert [line.source for line in at_64] == ["measured", "measured", "estimated", "estimated"]


class TestSteps:
    @pytest.mark.parametrize(
        ("device", "args", "tokens"),
        [
            (gpu(80 * GIB), [], 8192),
            (gpu(24 * GIB), [], 8192),
            (gpu(180 * GIB), [], 16384),
            (CPU_24GIB, [], 2048),
            (gpu(80 * GIB), ["--max-num-batched-tokens=512"], 512),
            (gpu(80 * GIB), ["--no-enable-chunked-prefill"], 131072),
            (gpu(80 * GIB), ["--performance-mode=throughput"], 16384),
            (CPU_24GIB, ["--performance-mode", "throughput"], 4096),
            (gpu(80 * GIB), ["--performance-mode=throughput", "--max-num-batched=512"], 512),
        ],
        ids=str,
    )
    def test_of_an_engine(self, device: DeviceIdentity, args: list[str], tokens: int) -> None:
        assert step_tokens(model("Llama-3.2-1B", *args), device, 256) == tokens

    def test_are_no_larger_than_all_sequences_at_their_longest(self) -> None:
        assert step_tokens(SMOLLM2_FLOAT32, gpu(80 * GIB), 8) == 8 * 512


class TestTheReserve:
    def test_is_kept_free(self) -> None:
        result = share(layout(2), OPT, gpu(80 * GIB), 20 * GIB)
        assert result.gpu_memory_utilization == pytest.approx(60 / 80 / 2, abs=0.0002)
        assert (
            "Of 80.0 GiB 20.0 GiB are kept free"
            in max_replicas(OPT, gpu(80 * GIB), reserve_bytes=20 * GIB).message
        )

    def test_of_nothing_gives_replicas_the_whole_device(self) -> None:
        result = share(layout(1), OPT, gpu(80 * GIB), 0)
        assert result.gpu_memory_utilization == pytest.approx(1, abs=0.0002)

    def test_beyond_the_device_leaves_nothing(self) -> None:
        assert max_replicas(OPT, gpu(80 * GIB), reserve_bytes=90 * GIB).max_replicas == 0

    def test_of_an_unknown_model_still_counts(self) -> None:
        assert share(layout(1), None, gpu(80 * GIB), 40 * GIB).gpu_memory_utilization == 0.5


class TestOtherDevices:
    def test_a_cpu_host_gives_half_its_memory_and_no_more_kv_cache_than_is_of_use(self) -> None:
        assert max_replicas(SMOLLM2_FLOAT32, CPU_24GIB).max_replicas == 5
        result = share(layout(2, 8), SMOLLM2_FLOAT32, CPU_24GIB)
        assert (
            result.kv_cache_bytes == 186 * MIB
        )  # 46,080 bytes of 8 x 512 tokens and a block of 128
        assert result.gpu_memory_utilization is None

    def test_an_unknown_model_is_left_to_the_engine(self) -> None:
        packing = max_replicas(None, H100_64GB)
        assert packing.max_replicas == wire.MAX_REPLICAS_PER_PACK
        assert "the engine's own check" in packing.message
        assert share(layout(3), None, H100_64GB).gpu_memory_utilization == pytest.approx(0.3)
        assert share(layout(3), None, H100_64GB).kv_cache_bytes is None
        assert share(layout(3), None, CPU_24GIB).gpu_memory_utilization is None

    def test_a_small_model_stops_at_the_wire_limit(self) -> None:
        packing = max_replicas(SMOLLM2_FLOAT32, gpu(140 * GIB))
        assert packing.max_replicas == wire.MAX_REPLICAS_PER_PACK

    def test_a_batch_beyond_the_usual_changes_no_count_and_still_gets_its_sequence(self) -> None:
        device = gpu(6 * GIB)
        usual, large = (
            max_replicas(OPT, device, layout=layout(1, batch)).max_replicas for batch in (256, 4096)
        )
        assert usual == large == 1
        assert share(layout(1, 4096), OPT, device).kv_cache_bytes == 387 * MIB


class TestRemedies:
    def test_a_layout_beyond_memory_is_refused_with_the_sum(self) -> None:
        with pytest.raises(LayoutError, match=r"at most 14 do: Of 80\.0 GiB") as caught:
            share(layout(15), OPT, gpu(80 * GIB))
        assert caught.value.packing.max_replicas == 14

    def test_name_what_would_make_a_long_context_fit(self) -> None:
        device = gpu(24 * GIB)
        packing = max_replicas(model("Llama-3.1-8B"), device)
        assert packing.max_replicas == 0
        assert remedies(1, packing, device) == (
            "--max-model-len 29440",
            "a GPU with at least 38 GiB",
        )

    def test_offer_fp8_and_fewer_replicas_where_they_help(self) -> None:
        device = gpu(40 * GIB)
        packing = max_replicas(model("Llama-3.2-1B"), device)
        assert packing.max_replicas == 4
        assert remedies(5, packing, device) == (
            "--max-model-len 85760",
            "--kv-cache-dtype fp8",
            "4 replicas",
            "a GPU with at least 48 GiB",
        )

    def test_offer_a_smaller_batch_where_logits_and_graphs_are_large(self) -> None:
        device = gpu(24 * GIB)
        packing = max_replicas(model("Qwen2.5-0.5B", "--max-model-len", "2048"), device)
        assert packing.max_replicas == 6
        assert "spec.engine.maxNumSeqs 128" in remedies(7, packing, device)

    def test_on_a_host_speak_of_a_host_and_of_no_fp8(self) -> None:
        packing = max_replicas(model("Llama-3.2-3B"), CPU_24GIB)
        found = remedies(1, packing, CPU_24GIB)
        assert found[-1].startswith("a host with at least")
        assert not any("fp8" in remedy for remedy in found)

    def test_are_none_where_memory_does_not_stand_in_the_way(self) -> None:
        assert remedies(2, max_replicas(OPT, H100_64GB), H100_64GB) == ()
        assert remedies(2, max_replicas(None, H100_64GB), H100_64GB) == ()

    @given(footprints, devices, st.integers(1, 8), reserves)
    def test_are_each_true(
        self, found: ModelFootprint, device: DeviceIdentity, wanted: int, reserve: int | None
    ) -> None:
        packing = max_replicas(found, device, reserve_bytes=reserve)
        assume(packing.max_replicas < wanted)

        def fit(
            other: ModelFootprint = found, on: DeviceIdentity = device, batch: int = 256
        ) -> int:
            planned = layout(1, batch)
            return max_replicas(other, on, reserve_bytes=reserve, layout=planned).max_replicas

        for remedy in remedies(wanted, packing, device):
            number = int(re.sub(r"\D", "", remedy.replace("fp8", "")) or 0)
            if remedy.startswith("--max-model-len"):
                shorter = found.model_copy(update={"max_model_len": number})
                longer = found.model_copy(update={"max_model_len": number + 256})
                assert fit(shorter) >= wanted
                assert number + 256 >= found.max_model_len or fit(longer) < wanted
            elif remedy.startswith("spec.engine.maxNumSeqs"):
                assert fit(batch=number) >= wanted
            elif "with at least" in remedy:
                kind, name = device.kind, device.name
                assert fit(on=DeviceIdentity(kind, name, number * GIB, True)) >= wanted
                assert fit(on=DeviceIdentity(kind, name, (number - 1) * GIB, True)) < wanted
            elif remedy.endswith(("replica", "replicas")):
                assert number == packing.max_replicas
            else:
                assert remedy == "--kv-cache-dtype fp8"


class TestProperties:
    @given(footprints, devices, sequences, reserves)
    def test_every_count_up_to_the_greatest_fits_and_none_beyond(
        self, found: ModelFootprint, device: DeviceIdentity, num_seqs: int, reserve: int | None
    ) -> None:
        planned = layout(1, num_seqs)
        greatest = max_replicas(found, device, reserve_bytes=reserve, layout=planned).max_replicas
        for replicas in (greatest, greatest + 1):
            if 1 <= replicas <= greatest:
                share(layout(replicas, num_seqs), found, device, reserve)
            elif greatest < replicas <= wire.MAX_REPLICAS_PER_PACK:
                with pytest.raises(LayoutError):
                    share(layout(replicas, num_seqs), found, device, reserve)

    @given(footprints, devices, sequences, reserves, st.data())
    def test_shares_stay_in_the_budget_and_the_lines_add_up_to_a_share(
        self,
        found: ModelFootprint,
        device: DeviceIdentity,
        num_seqs: int,
        reserve: int | None,
        data: st.DataObject,
    ) -> None:
        one = layout(1, num_seqs)
        greatest = max_replicas(found, device, reserve_bytes=reserve, layout=one).max_replicas
        assume(greatest > 0)
        planned = layout(data.draw(st.integers(1, greatest)), num_seqs)
        result = share(planned, found, device, reserve)
        packing = max_replicas(found, device, reserve_bytes=reserve, layout=planned)
        kv_bytes = result.kv_cache_bytes
        assert kv_bytes is not None
        assert kv_bytes % MIB == 0
        used_bytes = total(fixed_lines(found, device, num_seqs)) + kv_bytes
        assert total(packing.lines) == used_bytes
        percent = 50 if device.kind == "CPU" else 90
        budget_bytes = device.memory_bytes * percent // 100
        if reserve is not None:
            budget_bytes = device.memory_bytes - reserve
        assert planned.replicas * used_bytes <= budget_bytes
        if device.kind == "CPU":
            assert result.gpu_memory_utilization is None
        else:
            assert result.gpu_memory_utilization is not None
            # as many decimals as the engine is given
            given_bytes = float(f"{result.gpu_memory_utilization:.4f}") * device.memory_bytes
            assert planned.replicas * given_bytes <= budget_bytes + 1
            assert given_bytes >= used_bytes - device.memory_bytes / 10_000

    @given(footprints, st.integers(4 * GIB, 159 * GIB), st.data())
    def test_more_memory_never_fits_fewer(
        self, found: ModelFootprint, memory_bytes: int, data: st.DataObject
    ) -> None:
        """Below 160 GiB: from there on vLLM takes larger steps unless it is told otherwise."""
        more_bytes = data.draw(st.integers(memory_bytes, 160 * GIB - 1))
        small = max_replicas(found, gpu(memory_bytes)).max_replicas
        assert small <= max_replicas(found, gpu(more_bytes)).max_replicas

    @given(footprints, devices, st.integers(1, 131_072))
    def test_a_shorter_sequence_never_fits_fewer(
        self, found: ModelFootprint, device: DeviceIdentity, tokens: int
    ) -> None:
        shorter = found.model_copy(update={"max_model_len": min(tokens, found.max_model_len)})
        fitting = max_replicas(found, device).max_replicas
        assert max_replicas(shorter, device).max_replicas >= fitting

    @given(footprints, devices, sequences, sequences)
    def test_a_smaller_batch_never_fits_fewer(
        self, found: ModelFootprint, device: DeviceIdentity, one: int, other: int
    ) -> None:
        small, large = sorted((one, other))
        fitting = max_replicas(found, device, layout=layout(1, large)).max_replicas
        assert max_replicas(found, device, layout=layout(1, small)).max_replicas >= fitting

    @given(footprints, devices, st.data())
    def test_each_replica_more_leaves_each_less(
        self, found: ModelFootprint, device: DeviceIdentity, data: st.DataObject
    ) -> None:
        greatest = max_replicas(found, device).max_replicas
        assume(greatest > 1)
        replicas = data.draw(st.integers(2, greatest))
        fewer = share(layout(replicas - 1), found, device).kv_cache_bytes or 0
        assert fewer >= (share(layout(replicas), found, device).kv_cache_bytes or 0)


def test_the_planner_s_figures_survive_the_wire() -> None:
    packing = max_replicas(model("Gemma-3-1B"), gpu(24 * GIB), layout=layout(2))
    assert wire.Packing.model_validate_json(packing.model_dump_json()) == packing
