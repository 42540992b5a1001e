"""Who may run, when many want to."""

from __future__ import annotations

import asyncio

import pytest

from slm_operator.gate import Gate, Lane, waiting_for_others


async def test_no_more_run_at_a_time_than_are_admitted_and_all_have_their_turn() -> None:
    gate = Gate(at_a_time=3, patience_seconds=60)
    running = most = 0
    order = []

    async def one(number: int) -> None:
        nonlocal running, most
        async with gate.turn():
            running += 1
            most = max(most, running)
            order.append(number)
            await asyncio.sleep(0)
            running -= 1

    await asyncio.gather(*(one(number) for number in range(20)))
    assert most == 3
    assert order == list(range(20))


async def test_those_who_wait_for_somebody_slow_hold_up_nobody() -> None:
    gate = Gate(at_a_time=2, patience_seconds=0.01)
    never = asyncio.Event()

    async def slow() -> None:
        async with gate.turn():
            with waiting_for_others():
                await never.wait()

    async def quick() -> None:
        async with gate.turn():
            pass

    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(slow()) for _ in range(20)]
        await asyncio.wait_for(quick(), timeout=10)
        assert not any(task.done() for task in waiting)
        never.set()


async def test_those_who_wait_for_what_all_wait_for_keep_their_place() -> None:
    gate = Gate(at_a_time=1, patience_seconds=0.01, longest_seconds=60)
    async with gate.turn() as turn:
        with waiting_for_others():
            pass
        second = asyncio.ensure_future(gate.turn().__aenter__())
        await asyncio.sleep(0.05)
        assert not second.done()
    await second
    assert not turn.overstayed


async def test_nobody_keeps_a_place_for_long() -> None:
    gate = Gate(at_a_time=1, patience_seconds=60, longest_seconds=0.01)
    async with gate.turn() as turn:
        await asyncio.wait_for(gate.turn().__aenter__(), timeout=10)
    assert turn.overstayed


async def test_without_a_gate_nobody_loses_patience() -> None:
    with waiting_for_others():
        await asyncio.sleep(0)


async def test_who_was_slow_waits_among_the_slow_and_the_others_do_not() -> None:
    gate = Gate(at_a_time=1, patience_seconds=60)
    async with gate.turn(Lane.SLOW):
        second = asyncio.ensure_future(gate.turn(Lane.SLOW).__aenter__())
        await asyncio.sleep(0)
        async with gate.turn():
            pass
        assert not second.done()
    await second


async def test_those_who_are_only_looked_at_again_hold_up_nobody_with_news() -> None:
    gate = Gate(at_a_time=1, routine_at_a_time=2)
    async with gate.turn(Lane.ROUTINE), gate.turn(Lane.ROUTINE):
        third = asyncio.ensure_future(gate.turn(Lane.ROUTINE).__aenter__())
        async with gate.turn(Lane.NEWS):
            assert not third.done()
    await third


@pytest.mark.parametrize("lane", [Lane.ROUTINE, Lane.SLOW])
async def test_who_hears_news_while_it_waits_goes_among_those_that_have_some(lane: Lane) -> None:
    gate = Gate(at_a_time=1, routine_at_a_time=1)
    news = asyncio.Event()
    async with gate.turn(lane):
        told = asyncio.ensure_future(gate.turn(lane, news).__aenter__())
        untold = asyncio.ensure_future(gate.turn(lane, asyncio.Event()).__aenter__())
        await asyncio.sleep(0.01)
        assert not told.done()
        news.set()
        await asyncio.wait_for(told, timeout=10)
        assert not untold.done()
    await untold


async def test_who_gives_up_waiting_takes_no_place_with_it() -> None:
    gate = Gate(routine_at_a_time=1)
    async with gate.turn(Lane.ROUTINE):
        first = asyncio.ensure_future(gate.turn(Lane.ROUTINE, asyncio.Event()).__aenter__())
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.wait([first])
    async with asyncio.timeout(10), gate.turn(Lane.ROUTINE):
        pass


async def test_a_routine_look_that_waits_for_an_agent_makes_room_long_before_it_is_slow() -> None:
    gate = Gate(routine_at_a_time=1, patience_seconds=60)
    async with gate.turn(Lane.ROUTINE) as turn:
        with waiting_for_others():
            async with asyncio.timeout(10), gate.turn(Lane.ROUTINE):
                pass
    assert not turn.overstayed


@pytest.mark.parametrize(("stays_seconds", "slow"), [(0.0, False), (0.2, True)])
async def test_a_turn_tells_whether_it_was_slow(stays_seconds: float, slow: bool) -> None:
    gate = Gate(patience_seconds=0.1)
    async with gate.turn() as turn:
        with waiting_for_others():
            await asyncio.sleep(stays_seconds)
    assert turn.overstayed is slow


async def test_a_place_is_given_back_once_however_a_turn_ends() -> None:
    gate = Gate(at_a_time=1, patience_seconds=0.01)
    with pytest.raises(ValueError, match="failed"):
        async with gate.turn():
            with waiting_for_others():
                await asyncio.sleep(0.05)
            raise ValueError("failed")
    async with gate.turn():
        second = asyncio.ensure_future(gate.turn().__aenter__())
        await asyncio.sleep(0)
        assert not second.done()
    await second
