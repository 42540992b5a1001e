"""Which output lengths the calibration load asks for, where the model takes only so many tokens."""

from __future__ import annotations

import asyncio
import random
from statistics import mean
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slm_worker.agent import Agent
from slm_worker.bringup import BringUp
from slm_worker.load import LoadTooLongError, SaturatingLoad, output_lengths
from slm_worker.loading import CalibrationLoad
from slm_worker.replicas.fleet import Fleet
from slm_worker.replicas.planner import Target
from slm_worker.wire import GpuConfig, Layout, Load, LoadState, Plan, Problem, RouterState


@pytest.mark.parametrize(
    ("prompt", "output", "longest", "shortest_output", "longest_output"),
    [
        pytest.param(128, 256, None, 128, 384, id="of a model whose length is not known"),
        pytest.param(128, 256, 2048, 128, 384, id="with room for the whole spread"),
        pytest.param(1500, 500, 2048, 452, 548, id="with room for a part of it"),
        pytest.param(1548, 500, 2048, 500, 500, id="with room for the mean alone"),
        pytest.param(1, 1, None, 1, 1, id="of one token"),
    ],
)
def test_lengths_are_spread_as_far_to_both_sides_as_the_model_takes(
    prompt: int, output: int, longest: int | None, shortest_output: int, longest_output: int
) -> None:
    lengths = output_lengths(prompt, output, longest)
    assert (lengths[0], lengths[-1]) == (shortest_output, longest_output)


lengths_in_tokens = st.integers(min_value=1, max_value=5000)


@given(lengths_in_tokens, lengths_in_tokens, lengths_in_tokens)
def test_each_request_fits_and_their_mean_is_what_was_asked_for(
    prompt: int, output: int, room: int
) -> None:
    lengths = output_lengths(prompt, output, prompt + output + room)
    assert lengths[0] >= 1
    assert prompt + lengths[-1] <= prompt + output + room
    assert mean((lengths[0], lengths[-1])) == output


def test_a_mean_that_does_not_fit_is_refused_with_fields_and_remedy() -> None:
    with pytest.raises(LoadTooLongError) as refused:
        output_lengths(1549, 500, 2048)
    assert str(refused.value) == (
        "spec.autoscaling.calibration.promptTokens 1,549 and outputTokens 500 exceed the model's "
        "longest sequence of 2,048 tokens: lower one of them, or give spec.engine.args a larger "
        "--max-model-len, as far as the model goes"
    )


class Walked(Agent):
    """Replicas are at once what a plan wants; the model takes 64 tokens."""

    def __init__(self) -> None:
        async def there() -> bool:
            return True

        async def tend(routing: object) -> SimpleNamespace:
            return SimpleNamespace(in_flight={})

        async def closed() -> None: ...

        router = SimpleNamespace(
            send_clients_away=lambda: None, state=RouterState(), tend=tend, alive=True
        )
        super().__init__(
            agent_id="a",
            version="0",
            gpu=GpuConfig(kind="Simulated"),
            bring_up=cast(
                "BringUp",
                SimpleNamespace(
                    attempt=there, close=closed, device=None, problem=None, router=router
                ),
            ),
            make_host=lambda _: pytest.fail("nothing is started"),
            load=CalibrationLoad(
                lambda load: SaturatingLoad(
                    url="http://127.0.0.1:9",
                    model_name="m",
                    prompt_tokens=load.prompt_tokens,
                    output_tokens=load.output_tokens,
                    longest_tokens=64,
                    rng=random.Random(1),
                )
            ),
            clock=asyncio.get_running_loop().time,
            linger_seconds=0.0,
        )

    def _ensure_fleet(self) -> Fleet:
        async def step(*_: object) -> bool:
            return True

        return cast("Fleet", SimpleNamespace(step=step))

    async def _target(self, plan: Plan) -> Target | None:
        return cast("Target", object())

    async def follow(self, plan: Plan) -> None:
        self.accept(plan)
        await self._guarded_pass()


def plan_of(generation: int, load: Load | None) -> Plan:
    layout = Layout(replicas=1, max_num_seqs=8)
    return Plan(generation=generation, layout=layout, rotation=1, load=load)


async def test_a_load_too_long_for_the_model_is_a_problem_until_it_is_another() -> None:
    agent = Walked()
    await agent.follow(plan_of(1, Load(prompt_tokens=40, output_tokens=30)))
    state = agent.state()
    assert isinstance(state.problem, Problem)
    assert state.problem.reason == "CalibrationTooLong"
    assert "longest sequence of 64 tokens" in state.problem.message
    assert (state.settled, state.load) == (False, LoadState())

    await agent.follow(plan_of(2, Load(prompt_tokens=40, output_tokens=20)))
    state = agent.state()
    assert (state.settled, state.problem) == (True, None)
    await agent.follow(plan_of(3, None))
    assert agent.state().load.in_flight == 0
