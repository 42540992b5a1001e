"""What the planner expects begins the search, is kept for it, and decides nothing."""

from __future__ import annotations

import pytest

from builders import pack, pack_state, service
from decide_world import World, look
from slm_operator.decide.decision import Decision
from slm_operator.decide.expectation import expected_layout
from slm_operator.decide.snapshot import Memory
from slm_operator.pareto.objective import Limits, Objective
from slm_operator.pareto.points import Probe
from slm_operator.pareto.space import SearchSpace
from slm_worker.model_files import PUBLISHED_CONFIGS
from slm_worker.planning.catalogue import called, gpus
from slm_worker.planning.outlook import BATCHES, outlook
from slm_worker.wire import EngineConfig, Outlook, Packing

OPT = PUBLISHED_CONFIGS["facebook/opt-1.3b"]
VLLM = EngineConfig(kind="vLLM")
SPACE = SearchSpace(1, 4, 256, batch_is_free=False, objective=Objective())


def told(tokens: dict[tuple[int, int], float]) -> tuple[Outlook, ...]:
    return tuple(
        Outlook(
            replicas=replicas,
            max_num_seqs=batch,
            output_tokens_per_second=tokens_per_second,
            power_watts=300 + 10 * replicas,
            itl_seconds=0.0001 * batch * replicas,
        )
        for (replicas, batch), tokens_per_second in tokens.items()
    )


RISING = told({(1, 256): 1000, (2, 256): 2000, (3, 256): 3000, (4, 256): 3010, (1, 64): 500})


def test_the_layout_that_would_be_chosen_is_expected() -> None:
    assert expected_layout(RISING, SPACE) == Probe(3, 3, 256)
    assert expected_layout(RISING, SearchSpace(1, 2, 256, False, Objective())) == Probe(2, 2, 256)
    assert expected_layout((), SPACE) is None


def test_limits_count_in_what_is_expected() -> None:
    space = SearchSpace(1, 4, 256, False, Objective(), limits=Limits(itl_p95_seconds=0.06))
    assert expected_layout(RISING, space) == Probe(2, 2, 256)


def test_a_batch_that_was_not_predicted_stands_for_the_nearest() -> None:
    assert expected_layout(RISING, SearchSpace(1, 4, 300, False, Objective())) == Probe(3, 3, 300)


def test_layouts_outside_the_space_are_not_expected() -> None:
    assert expected_layout(RISING, SearchSpace(5, 8, 256, False, Objective())) is None


def first(told_by_the_pack: tuple[Outlook, ...], world: World) -> Decision:
    state = pack_state()
    assert state.packing is not None
    packing: Packing = state.packing.model_copy(update={"outlook": told_by_the_pack})
    return look(world.service, pack(pack_state(packing=packing)), memory=Memory())


def test_the_search_begins_at_what_is_expected_and_keeps_to_it() -> None:
    world = World(service())
    decision = first(RISING, world)
    assert [(p.layout.replicas, p.rotation) for _, p in decision.plans] == [(4, 3)]
    calibration = decision.status.calibration
    assert calibration is not None and calibration.expected is not None
    assert calibration.expected.replicas_per_pack == 3

    searched = World(service())
    searched.run(60)
    status = searched.service.status
    searched.service = searched.service.model_copy(update={"status": status})
    later = first(RISING, searched)
    assert later.status.recommended_replicas_per_pack == 2, "nothing is measured anew for it"


def test_a_model_on_a_gpu_that_the_driver_names_is_predicted() -> None:
    found = outlook(OPT, "NVIDIA H100 80GB HBM3", VLLM)
    assert {(o.replicas, o.max_num_seqs) for o in found} >= {
        (n, b) for n in (1, 4) for b in BATCHES
    }
    one, two = (next(o for o in found if (o.replicas, o.max_num_seqs) == (n, 256)) for n in (1, 2))
    assert two.output_tokens_per_second > 1.1 * one.output_tokens_per_second


def test_a_layout_whose_kv_cache_is_just_one_longest_sequence_is_predicted() -> None:
    gpt2_large = {
        "model_type": "gpt2",
        "n_layer": 36,
        "n_embd": 1280,
        "n_head": 20,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    tokens = {
        (o.replicas, o.max_num_seqs): o.output_tokens_per_second
        for o in outlook(gpt2_large, "NVIDIA L4", VLLM)
    }
    assert 0 < tokens[5, 512] < tokens[5, 64]


@pytest.mark.parametrize(
    ("document", "gpu", "engine"),
    [
        (None, "NVIDIA H100 80GB HBM3", VLLM),
        (OPT, "NVIDIA GeForce RTX 4090", VLLM),
        (OPT, "NVIDIA H100 80GB HBM3", EngineConfig(kind="Simulated")),
        ({"model_type": "opt"}, "NVIDIA H100 80GB HBM3", VLLM),
        (OPT, "Tesla T4", EngineConfig(kind="vLLM", args=("--dtype", "bfloat16"))),
    ],
    ids=["not downloaded", "unknown GPU", "simulated", "no sizes", "dtype that the GPU lacks"],
)
def test_nothing_is_expected_where_the_planner_cannot_tell(
    document: dict[str, object] | None, gpu: str, engine: EngineConfig
) -> None:
    assert outlook(document, gpu, engine) == ()


def test_no_two_gpus_of_the_catalogue_have_one_name() -> None:
    names = [gpu.nvml_name for gpu in gpus().values() if gpu.nvml_name]
    assert len(names) == len(set(names)) > 20
    assert all(called(name) is not None for name in names)
