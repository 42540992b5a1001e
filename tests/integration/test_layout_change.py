"""Layout changes under load, at the agent: none costs a request, and each keeps what it can."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from benchmarks.fault_rig.counting import CountingLoad
from benchmarks.layout_change import (
    WALK,
    change,
    change_that_fails,
    fewest_that_memory_asks,
    pack_under_load,
)
from benchmarks.pack import Pack

pytestmark = pytest.mark.asyncio(loop_scope="module")

Loaded = tuple[Pack, CountingLoad]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def loaded() -> AsyncIterator[Loaded]:
    """A pack under load; every test begins by its own layout."""
    async with pack_under_load(start_seconds=0.0, clients=34) as both:
        yield both


async def test_from_one_to_two_to_four_and_back_no_request_fails(loaded: Loaded) -> None:
    pack, load = loaded
    changes = [await change(pack, load, after) for after in WALK[1:]]
    assert [(one.before, one.after) for one in changes] == [(1, 2), (2, 4), (4, 1)]
    for one in changes:
        assert one.fewest_in_rotation == fewest_that_memory_asks(one.before, one.after)
        assert one.failed_requests == 0


async def test_replicas_that_do_not_start_leave_the_last_of_the_former_layout_serving(
    loaded: Loaded,
) -> None:
    taken_back = await change_that_fails(*loaded, before=2, after=4)
    assert taken_back.fewest_in_rotation == fewest_that_memory_asks(2, 4) == 1
    assert taken_back.failed_requests == 0


async def test_where_nobody_is_left_requests_wait_until_the_former_layout_is_back(
    loaded: Loaded,
) -> None:
    taken_back = await change_that_fails(*loaded, before=1, after=2)
    assert taken_back.fewest_in_rotation == fewest_that_memory_asks(1, 2) == 0
    assert taken_back.failed_requests == 0
