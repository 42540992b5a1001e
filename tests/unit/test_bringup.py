"""A model's size may become known after the pack came up: its weights are downloaded meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from slm_worker.bringup import BringUp
from slm_worker.engine.base import Engine
from slm_worker.gpu.base import Device, DeviceIdentity
from slm_worker.planning.learning import StartedReplica
from slm_worker.planning.memory import GIB, ModelFootprint
from slm_worker.routing.router import Router
from slm_worker.wire import Outlook

ESTIMATED = ModelFootprint(weights_bytes=14 * GIB, kv_bytes_per_token=1, max_model_len=1)
READ = ESTIMATED.model_copy(update={"weights_bytes": 15 * GIB, "weights_source": "read"})
H100 = DeviceIdentity(kind="NVIDIA", name="H100", memory_bytes=80 * GIB, simulated=False)


class Pack:
    """``found`` is what the model's files say at the next look."""

    def __init__(self, found: ModelFootprint | None) -> None:
        self.found = found
        self.looks = 0
        self.look_out: Callable[[DeviceIdentity], tuple[Outlook, ...]] = lambda _: ()
        self.while_it_reads: Callable[[], None] = lambda: None
        self.bring_up = BringUp(
            open_device=self._open,
            read_model=self._read,
            look_out=lambda device: self.look_out(device),
            open_engine=lambda: cast(Engine, SimpleNamespace()),
            router=cast(Router, SimpleNamespace(start=self._started, alive=True)),
            clock=lambda: 0.0,
        )

    def _read(self) -> ModelFootprint | None:
        self.looks += 1
        self.while_it_reads()
        return self.found

    async def _open(self) -> Device:
        return cast(Device, SimpleNamespace(identity=H100))

    async def _started(self) -> None: ...


async def came_up(found: ModelFootprint | None) -> Pack:
    pack = Pack(found)
    assert await pack.bring_up.attempt()
    return pack


@pytest.mark.parametrize("first", [None, ESTIMATED], ids=["unknown", "estimated"])
async def test_a_size_that_was_not_read_from_the_weights_is_read_again(
    first: ModelFootprint | None,
) -> None:
    pack = await came_up(first)
    assert pack.bring_up.footprint == first
    pack.found = READ
    await pack.bring_up.read_model()
    assert pack.bring_up.footprint == READ


async def test_a_size_that_was_read_is_not_read_again() -> None:
    pack = await came_up(READ)
    await pack.bring_up.read_model()
    assert pack.looks == 1


async def test_an_estimate_outlasts_a_look_that_finds_nothing() -> None:
    pack = await came_up(ESTIMATED)
    pack.found = None
    await pack.bring_up.read_model()
    assert pack.bring_up.footprint == ESTIMATED


async def test_what_a_start_taught_stays_with_the_size_that_is_read_later() -> None:
    pack = await came_up(ESTIMATED)
    pack.bring_up.learn(StartedReplica(max_num_seqs=8, graphs_bytes=GIB))
    pack.found = READ
    await pack.bring_up.read_model()
    known = pack.bring_up.footprint
    assert known is not None
    assert known.weights_bytes == READ.weights_bytes
    assert known.measured.batch(8).graphs_bytes == GIB


async def test_weights_that_a_start_measures_during_a_look_stay() -> None:
    pack = await came_up(ESTIMATED)
    started = StartedReplica(max_num_seqs=8, weights_bytes=16 * GIB)
    pack.while_it_reads = lambda: pack.bring_up.learn(started)
    pack.found = READ
    await pack.bring_up.read_model()
    known = pack.bring_up.footprint
    assert known is not None
    assert (known.weights_bytes, known.weights_source) == (16 * GIB, "measured")


async def test_a_pack_comes_up_although_nothing_can_be_foretold() -> None:
    def fails(device: DeviceIdentity) -> tuple[Outlook, ...]:
        raise ValueError(f"no figures for {device.name}")

    pack = Pack(READ)
    pack.look_out = fails
    assert await pack.bring_up.attempt()
    assert pack.bring_up.footprint == READ
    assert pack.bring_up.outlook == ()
