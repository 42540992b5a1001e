"""The agent as a process, with simulated engines on a simulated GPU behind HAProxy."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import aiohttp
import psutil
import pytest

from agent_process import (
    SIMULATED,
    WAIT_SECONDS,
    AgentProcess,
    Users,
    agent,
    loopback_address,
    plan,
    replica,
)
from slm_worker.gpu.simulated.pace import RUNTIME_BYTES
from slm_worker.wire import AGENT_PORT, ROUTER_PORT, Load, PackState, ReplicaPhase

TWO_REPLICAS_TOKENS_PER_SECOND = 10_642
"""What two replicas of OPT-1.3B with 256 sequences each were measured at on one H100."""
LOAD = Load(prompt_tokens=160, output_tokens=96)
WINDOWS = 40
"""Tries until a busy machine gives the engines their time for the length of one."""
SEEN_TOKENS = 1800
"""Takes some seven seconds: it is seen to run, whatever else the machine does."""
MISSED_WHILE_HUNG = 3
"""At least so many samples are missed until a replica in rotation is found hung: each waits for two
seconds, and the probe for ten. A busy machine misses one now and then."""


@pytest.fixture
async def pack(tmp_path: Path) -> AsyncIterator[AgentProcess]:
    async with agent(tmp_path) as running:
        await running.until("a first sample", lambda state: state.counters)
        yield running


async def tokens_per_second(pack: AgentProcess, seconds: float) -> tuple[float, float]:
    """Output tokens a second over a window, and the part of it that was saturated."""
    before = (await pack.state()).counters
    assert before is not None
    state = await pack.until(
        "a window",
        lambda state: (
            state.counters
            and state.counters.sampled_at_seconds >= before.sampled_at_seconds + seconds
        ),
    )
    after = state.counters
    assert after is not None
    length = after.sampled_at_seconds - before.sampled_at_seconds
    saturated = after.saturated_seconds - before.saturated_seconds
    return (after.output_tokens - before.output_tokens) / length, saturated / length


async def test_a_pack_walks_to_its_plan_and_measures_the_load(pack: AgentProcess) -> None:
    fresh = await pack.state()
    assert fresh.plan is None and not fresh.settled and fresh.replicas == ()
    assert fresh.packing is not None and fresh.packing.max_replicas > 4
    assert not await pack.ready()

    settled = await pack.settle(plan(1, 2, load=LOAD))
    assert [one.in_rotation for one in settled.replicas] == [True, True]
    assert all(one.kv_cache_bytes for one in settled.replicas)
    assert await pack.ready()

    for _ in range(WINDOWS):
        rate, saturated = await tokens_per_second(pack, 6.0)
        if saturated > 0.99 and rate == pytest.approx(TWO_REPLICAS_TOKENS_PER_SECOND, rel=0.1):
            break
    else:
        raise AssertionError(
            f"none of {WINDOWS} windows was saturated and served {TWO_REPLICAS_TOKENS_PER_SECOND} "
            f"tokens/s; the last: {rate:.0f}, {saturated:.0%} saturated\n{pack.tail()}"
        )

    state = await pack.state()
    assert state.counters is not None and state.counters.energy_millijoules
    assert state.counters.ttft.count > 0 and state.counters.itl.count > 0
    assert state.load.failed == 0 and state.load.in_flight > 512

    quiet = await pack.settle(plan(2, 2))
    assert quiet.load.in_flight == 0
    assert quiet.load.sent == quiet.load.completed + quiet.load.cancelled


async def test_rotation_changes_cost_no_restart_and_no_request(pack: AgentProcess) -> None:
    await pack.settle(plan(1, 2))
    users = Users(pack)
    for generation in range(2, 8):
        rotation = 1 + generation % 2
        state = await pack.settle(plan(generation, 2, rotation))
        assert [one.in_rotation for one in state.replicas] == [True, rotation == 2]
        await users.until_answered(20)
    await users.stop()
    assert set(users.answers) == {200}
    assert [one.starts for one in (await pack.state()).replicas] == [1, 1]


async def test_layout_changes_lose_no_request(pack: AgentProcess) -> None:
    await pack.settle(plan(1, 1))
    users = Users(pack)
    for generation, replicas in ((2, 2), (3, 1)):
        state = await pack.settle(plan(generation, replicas))
        assert len(state.replicas) == replicas
        await users.until_answered(20)
    await users.stop()
    assert set(users.answers) == {200}


async def test_a_new_batch_size_restarts_one_after_another_while_another_serves(
    pack: AgentProcess,
) -> None:
    await pack.settle(plan(1, 2))
    users = Users(pack)
    status, _ = await pack.plan(plan(2, 2, max_num_seqs=128))
    assert status == 200

    def checked(state: PackState) -> bool:
        assert any(one.in_rotation for one in state.replicas)
        assert sum(one.phase is ReplicaPhase.STARTING for one in state.replicas) <= 1
        return state.settled

    state = await pack.until("settled with one always serving", checked)
    await users.stop()
    assert [one.max_num_seqs for one in state.replicas] == [128, 128]
    assert set(users.answers) == {200}


async def test_a_newer_plan_does_not_wait_for_the_older_one(pack: AgentProcess) -> None:
    await pack.plan(plan(1, 4))
    await pack.until("the first starts", lambda state: state.replicas)
    state = await pack.settle(plan(2, 1))
    assert len(state.replicas) == 1


async def test_a_killed_replica_heals_while_another_serves(pack: AgentProcess) -> None:
    before = await pack.settle(plan(1, 2))
    victim = replica(before, 0)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    failed = await pack.until("the death is seen", lambda state: replica(state, 0).problem)
    problem = replica(failed, 0).problem
    assert problem is not None and problem.reason == "EngineKilled"
    assert not failed.settled and failed.problem == problem
    assert not replica(failed, 0).in_rotation and replica(failed, 1).in_rotation
    assert await pack.complete() == 200
    healed = await pack.until("healed", lambda state: state.settled)
    assert replica(healed, 0).starts == 2 and replica(healed, 1).starts == 1
    assert healed.problem is None
    assert before.counters is not None and healed.counters is not None
    assert healed.counters.output_tokens > before.counters.output_tokens


@pytest.mark.parametrize("standby", ["in rotation", "Awake", "Asleep"])
async def test_a_stopped_replica_is_found_hung_and_heals(
    pack: AgentProcess, standby: Literal["in rotation", "Awake", "Asleep"]
) -> None:
    if standby == "in rotation":
        before = await pack.settle(plan(1, 2))
    else:
        before = await pack.settle(plan(1, 2, 1, standby=standby))
    victim = replica(before, 1)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGSTOP)
    failed = await pack.until("found hung", lambda state: replica(state, 1).problem)
    problem = replica(failed, 1).problem
    assert problem is not None and problem.reason == "Hung"
    healed = await pack.until("healed", lambda state: state.settled)
    assert replica(healed, 1).starts == 2 and replica(healed, 0).starts == 1
    assert not psutil.pid_exists(victim.pid)
    assert healed.counters is not None
    serving = standby == "in rotation"
    missed = healed.counters.missed_samples
    assert (missed >= MISSED_WHILE_HUNG) == serving, f"only of those that serve: {missed}"


async def test_an_engine_that_does_not_start_is_explained_and_tried_again(tmp_path: Path) -> None:
    config = SIMULATED | {"engine": {"kind": "Simulated", "args": ["--oops"]}}
    async with agent(tmp_path, config) as pack:
        await pack.until("a first sample", lambda state: state.counters)
        await pack.plan(plan(1, 1))
        state = await pack.until(
            "a second try", lambda state: state.replicas and replica(state, 0).starts >= 2
        )
        problem = replica(state, 0).problem
        assert problem is not None and problem.reason == "EngineArgumentInvalid"
        assert "--oops" in problem.message
        assert state.problem == problem and not state.settled


async def test_plans_that_are_stale_or_too_large_are_refused(pack: AgentProcess) -> None:
    await pack.settle(plan(5, 1))
    assert (await pack.plan(plan(5, 1)))[0] == 200
    for stale in (plan(4, 1), plan(5, 2)):
        status, error = await pack.plan(stale)
        assert (status, error["reason"]) == (409, "StaleGeneration")
    status, error = await pack.plan(plan(6, 32))
    assert (status, error["reason"]) == (422, "DoesNotFit")
    assert 4 < error["max_replicas"] < 32
    assert "weights 2.5 GiB" in error["message"] and "with at least" in error["message"]
    state = await pack.state()
    assert state.plan == plan(5, 1) and state.settled


async def test_what_the_first_start_took_sizes_the_next_layout(pack: AgentProcess) -> None:
    before = (await pack.state()).packing
    assert before is not None and {line.source for line in before.lines} == {"estimated"}

    first = await pack.settle(plan(1, 1))
    assert first.packing is not None and first.packing.capacity is not None
    lines = {line.what: line for line in first.packing.lines}
    context = lines["CUDA context and libraries"]
    assert (context.source, context.size_bytes) == ("measured", RUNTIME_BYTES)
    assert first.packing.capacity.kv_cache_bytes == first.replicas[0].kv_cache_bytes

    fixed_bytes = sum(line.size_bytes for line in first.packing.lines[:-1])
    second = await pack.settle(plan(2, 2))
    share_bytes = second.gpu.memory_bytes * 0.9 / 2
    given_bytes = second.replicas[0].kv_cache_bytes
    assert given_bytes is not None
    assert given_bytes == pytest.approx(share_bytes - fixed_bytes, abs=2**20)


async def test_the_end_finishes_requests_and_leaves_nothing(pack: AgentProcess) -> None:
    await pack.settle(plan(1, 2))
    processes = psutil.Process(pack.process.pid).children(recursive=True)
    assert len(processes) >= 4
    asking = asyncio.create_task(pack.complete(tokens=SEEN_TOKENS))
    await pack.until("it runs", lambda state: any(one.running for one in state.replicas))
    assert await pack.terminate() == 0
    assert await asking == 200
    assert [process for process in processes if process.is_running()] == []
    assert list(pack.tmp.iterdir()) == []


async def test_until_the_nodes_know_of_its_end_a_pack_serves_on(pack: AgentProcess) -> None:
    await pack.settle(plan(1, 1, load=LOAD))
    pack.process.terminate()
    ending = await pack.until("it ends", lambda state: not state.settled)
    assert not await pack.ready()
    assert [one.in_rotation for one in ending.replicas] == [True]
    assert await asyncio.gather(*(pack.complete() for _ in range(5))) == [200] * 5
    await pack.until("its own load ends", lambda state: state.load.in_flight == 0)
    assert await pack.terminate() == 0


async def test_a_request_held_at_the_end_is_answered(pack: AgentProcess) -> None:
    victim = replica(await pack.settle(plan(1, 1)), 0)
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    await pack.until(
        "the death is seen",
        lambda state: replica(state, 0).problem or replica(state, 0).starts > victim.starts,
    )
    asking = asyncio.create_task(pack.complete())
    assert await pack.terminate() == 0
    assert await asking in (200, 503)


async def test_a_killed_agent_leaves_no_process(pack: AgentProcess) -> None:
    await pack.settle(plan(1, 1))
    processes = psutil.Process(pack.process.pid).children(recursive=True)
    pack.process.kill()
    _, left = await asyncio.to_thread(psutil.wait_procs, processes, WAIT_SECONDS)
    assert left == []


async def test_without_haproxy_the_pack_says_so_and_heals(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    # Without it HAProxy would outlive the agent when the test ends.
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    (programs / "setpriv").symlink_to(setpriv)
    async with agent(tmp_path, env={"PATH": str(programs)}) as pack:
        state = await pack.until("a problem", lambda state: state.problem)
        assert state.problem is not None and state.problem.reason == "RouterUnavailable"
        assert "haproxy is not installed" in state.problem.message
        async with aiohttp.ClientSession() as http, http.get(f"{pack.url}/readyz") as response:
            assert response.status == 503
            assert "haproxy is not installed" in await response.text()
        haproxy = shutil.which("haproxy")
        assert haproxy is not None
        (programs / "haproxy").symlink_to(haproxy)
        await pack.until("healed", lambda state: state.problem is None and state.counters)


async def test_a_dead_router_is_replaced(pack: AgentProcess) -> None:
    await pack.settle(plan(1, 1))
    routers = [
        process
        for process in psutil.Process(pack.process.pid).children(recursive=True)
        if process.name() == "haproxy"
    ]
    assert len(routers) == 1
    routers[0].kill()
    users = Users(pack, clients=1)
    await pack.until("answers again", lambda _: users.answers.get(200, 0) >= 3)
    await users.stop()
    assert replica(await pack.until("settled", lambda state: state.settled), 0).starts == 1


async def test_a_missing_model_is_a_problem_that_heals(tmp_path: Path) -> None:
    model = tmp_path / "model"
    config = SIMULATED | {"model": {"uri": f"file://{model}", "name": "opt"}}
    async with agent(tmp_path, config) as pack:
        state = await pack.until("a problem", lambda state: state.problem)
        assert state.problem is not None and state.problem.reason == "ModelNotFound"
        assert state.packing is None and state.gpu.name
        model.mkdir()
        (model / "config.json").write_text(
            '{"model_type": "opt", "num_hidden_layers": 2, "hidden_size": 64, "ffn_dim": 256,'
            '"num_attention_heads": 4, "vocab_size": 1000, "max_position_embeddings": 256}'
        )
        await pack.until("healed", lambda state: state.problem is None and state.packing)


async def test_without_vllm_the_pack_says_so(tmp_path: Path) -> None:
    config = SIMULATED | {"engine": {"kind": "vLLM"}}
    path = str(Path(sys.executable).parent)
    assert shutil.which("vllm", path=path) is None
    async with agent(tmp_path, config, env={"PATH": path}) as pack:
        state = await pack.until("a problem", lambda state: state.problem)
        assert state.problem is not None and state.problem.reason == "EngineNotFound"


async def test_a_taken_router_port_is_a_problem(tmp_path: Path) -> None:
    address = loopback_address()
    with socket.create_server((address, ROUTER_PORT)):
        async with agent(tmp_path, env={"POD_IP": address}) as pack:
            state = await pack.until("a problem", lambda state: state.problem)
            assert state.problem is not None and "port taken" in state.problem.message


async def test_a_taken_api_port_ends_the_agent_with_one_line(tmp_path: Path) -> None:
    address = loopback_address()
    with socket.create_server((address, AGENT_PORT)):
        async with agent(tmp_path, env={"POD_IP": address}) as pack:
            async with asyncio.timeout(WAIT_SECONDS):
                assert await pack.process.wait() == 3
            lines = pack.log_lines()
    assert len(lines) == 1
    assert f"the API cannot listen on {address}:8080" in lines[0]["message"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SLM_AGENT_TOKEN_FILE", ""), ("SLM_AGENT_TOKEN_FILE", "/nowhere"), ("SLM_PACK_CONFIG", "{}")],
)
async def test_wrong_settings_end_the_agent(tmp_path: Path, variable: str, value: str) -> None:
    async with agent(tmp_path, env={variable: value}) as pack:
        async with asyncio.timeout(WAIT_SECONDS):
            assert await pack.process.wait() == 2
        lines = pack.log_lines()
    assert len(lines) == 1 and variable in lines[0]["message"]
