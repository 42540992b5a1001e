"""The agent goes on with what serves while another layout cannot be sized, or the router fails."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

import slm_worker.agent
from fake_fleet import FakeDevice, FakeRouter, FakeRun
from slm_worker.agent import Agent
from slm_worker.bringup import BringUp
from slm_worker.gpu.base import DeviceIdentity
from slm_worker.planning.footprint import ModelError
from slm_worker.planning.memory import GIB, ModelFootprint
from slm_worker.replicas import lifecycle
from slm_worker.replicas.memory_limit import MemoryLimit
from slm_worker.replicas.replica import EngineHost
from slm_worker.replicas.witness import StartWitness
from slm_worker.routing.router import RouterError
from slm_worker.wire import (
    GpuConfig,
    Layout,
    Load,
    LoadState,
    PackState,
    Plan,
    ReplicaPhase,
    RouterState,
    Routing,
)

H100 = DeviceIdentity(kind="NVIDIA", name="H100", memory_bytes=80 * GIB, simulated=False)
ESTIMATED = ModelFootprint(weights_bytes=GIB, kv_bytes_per_token=1024, max_model_len=2048)
SERVING = Plan(generation=1, layout=Layout(replicas=2, max_num_seqs=8), rotation=1)
OTHER = Plan(generation=2, layout=Layout(replicas=1, max_num_seqs=16), rotation=1)
BACK = SERVING.model_copy(update={"generation": 3})
UNREADABLE = ModelError("ModelConfigInvalid", "config.json is half copied")


class OpenDevice(FakeDevice):
    identity = H100

    async def close(self) -> None: ...


class PackRouter(FakeRouter):
    """``failures``: what a method of that name raises."""

    alive, state = True, RouterState()

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, Exception] = {}
        self.restarts = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def restart(self) -> None:
        self.restarts += 1
        self._fail("restart")

    async def tend(self, _: Routing) -> SimpleNamespace:
        self._fail("tend")
        return SimpleNamespace(in_flight={})

    async def stats(self) -> SimpleNamespace:
        return SimpleNamespace(in_flight={}, queued=0)

    async def finish(self, _: float) -> bool:
        return True

    def send_clients_away(self) -> None: ...

    def _fail(self, method: str) -> None:
        if method in self.failures:
            raise self.failures[method]


class NoSampler:
    """Nobody reads the device."""

    device_problem = counters = reading = None
    router_queue = 0

    def __init__(self, *_: object, **__: object) -> None: ...

    async def sample(self) -> None: ...

    async def run(self) -> None:
        await asyncio.Event().wait()


class Pack:
    """An agent whose engines are ready at once; ``now`` is its clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.state = LoadState()
        self.model: ModelFootprint | ModelError = ESTIMATED
        self.router = PackRouter()
        device = OpenDevice()
        host = SimpleNamespace(
            engine=SimpleNamespace(can_sleep=True),
            device=device,
            witness=StartWitness(device.read, lambda _: None),
            memory_limit=MemoryLimit(),
        )

        async def open_device() -> Any:
            return device

        self.agent = Agent(
            agent_id="a",
            version="0",
            gpu=GpuConfig(kind="NVIDIA"),
            bring_up=BringUp(
                open_device=open_device,
                read_model=self._read_model,
                look_out=lambda _: (),
                open_engine=lambda: cast(Any, host.engine),
                router=cast(Any, self.router),
                clock=lambda: self.now,
            ),
            make_host=lambda _: cast(EngineHost, host),
            load=self,
            clock=lambda: self.now,
            linger_seconds=0.0,
        )

    def _read_model(self) -> ModelFootprint:
        if isinstance(self.model, ModelError):
            raise self.model
        return self.model

    async def match(self, load: Load | None, rotation: int, max_num_seqs: int) -> None: ...

    async def until(self, reached: Callable[[PackState], bool]) -> PackState:
        async with asyncio.timeout(60):
            while not reached(self.agent.state()):
                for run in FakeRun.made:
                    if not run.readiness.done():
                        run.readiness.set_result(None)
                self.now += 0.1
                await asyncio.sleep(0.001)
        return self.agent.state()


@pytest.fixture
async def pack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pack]:
    """Serves the layout of two replicas."""
    FakeRun.made = []
    monkeypatch.setattr(lifecycle, "EngineRun", cast(Any, FakeRun))
    monkeypatch.setattr(slm_worker.agent, "Sampler", NoSampler)
    monkeypatch.setattr(slm_worker.agent, "TICK_SECONDS", 0.001)
    made, end = Pack(), asyncio.Event()
    made.agent.accept(SERVING)
    running = asyncio.create_task(made.agent.run(end))
    await made.until(lambda state: state.settled)
    yield made
    end.set()
    await running


def reason(state: PackState) -> str | None:
    return state.problem.reason if state.problem else None


async def meet_an_unreadable_model(pack: Pack) -> PackState:
    pack.model = UNREADABLE
    pack.agent.accept(OTHER)
    return await pack.until(lambda state: reason(state) == UNREADABLE.reason)


async def test_a_layout_that_cannot_be_sized_leaves_the_one_that_serves(pack: Pack) -> None:
    state = await meet_an_unreadable_model(pack)
    assert not state.settled
    assert [one.phase for one in state.replicas] == [ReplicaPhase.READY] * 2
    assert [one.max_num_seqs for one in state.replicas] == [SERVING.layout.max_num_seqs] * 2


async def test_a_replica_that_dies_meanwhile_starts_again(pack: Pack) -> None:
    await meet_an_unreadable_model(pack)
    FakeRun.made[0].process.exited.set()
    await pack.until(lambda _: len(FakeRun.made) == 3)
    state = await pack.until(
        lambda state: [one.phase for one in state.replicas] == [ReplicaPhase.READY] * 2
    )
    assert not state.settled
    assert reason(state) == UNREADABLE.reason


async def test_once_the_model_can_be_read_the_layout_follows(pack: Pack) -> None:
    await meet_an_unreadable_model(pack)
    pack.model = ESTIMATED
    state = await pack.until(lambda state: state.settled)
    assert reason(state) is None
    assert [one.max_num_seqs for one in state.replicas] == [OTHER.layout.max_num_seqs]


async def test_a_plan_for_the_layout_that_serves_ends_the_trouble(pack: Pack) -> None:
    await meet_an_unreadable_model(pack)
    pack.agent.accept(BACK)
    state = await pack.until(lambda state: state.settled)
    assert reason(state) is None
    assert len(FakeRun.made) == 2


async def test_the_weights_that_a_start_downloaded_size_the_next_layout(pack: Pack) -> None:
    read = ESTIMATED.model_copy(update={"weights_bytes": 9 * GIB, "weights_source": "read"})
    pack.model = read
    pack.agent.accept(OTHER)
    state = await pack.until(lambda state: state.settled)
    assert state.packing is not None
    assert state.packing.footprint is not None
    assert state.packing.footprint.weights_bytes == read.weights_bytes


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RouterError("HAProxy did not start")],
    ids=["a full disk", "a router that refuses"],
)
async def test_a_router_that_cannot_be_replaced_ends_no_replica(
    pack: Pack, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    pack.router.failures = {"tend": RouterError("HAProxy did not answer"), "restart": error}
    await pack.until(lambda _: pack.router.restarts == 3)
    state = pack.agent.state()
    assert reason(state) == "RouterFailed"
    assert [one.phase for one in state.replicas] == [ReplicaPhase.READY] * 2
    assert [run.process.ended_by for run in FakeRun.made] == [[], []]
    assert str(error) in caplog.text
    pack.router.failures = {}
    state = await pack.until(lambda state: state.settled)
    assert reason(state) is None
