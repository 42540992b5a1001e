"""The router inside a pack: replicas' slots in HAProxy, moved by its runtime API.

A slot starts in maintenance; where it points and whether it takes requests changes over HAProxy's
stats socket, never by a reload, so that no change drops a request or cuts a stream. While no slot
takes requests they are held; see :mod:`slm_worker.routing.holder`.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from slm_worker.routing.config import (
    CONFIG_FILE,
    HOLD_SOCKET,
    RELAY_SOCKET,
    STATS_SOCKET,
    RouterSettings,
    slot_name,
)
from slm_worker.routing.haproxy import HaproxyProcess, RouterError, check_version
from slm_worker.routing.holder import Holder

__all__ = ["HOLD_TIMEOUT_SECONDS", "Router", "RouterError", "RouterStats", "parse_stats"]

HOLD_TIMEOUT_SECONDS = 300.0
"""How long requests wait for a replica: a lone replica restarts well within it."""

_ADDRESS_CHANGED = r"(IP changed|no need to change the addr).* port.* by 'stats socket command'"
_SHOW_STATS = "show stat engines 6 -1"
"""Backend (2) and server (4) rows of ``engines``."""


@dataclass(frozen=True)
class RouterStats:
    """One look at the router."""

    queued: int
    """Requests that wait here for a replica."""
    in_flight: Mapping[int, int]
    """Requests that a replica works on, by slot index."""


class _SlotState(StrEnum):
    """As the runtime API names them."""

    READY = "ready"
    DRAIN = "drain"
    MAINTENANCE = "maint"


@dataclass(frozen=True)
class _Slot:
    port: int
    max_in_flight: int
    state: _SlotState = _SlotState.MAINTENANCE


class Router:
    """One HAProxy. Methods may be called from several tasks; they take turns.

    ``address`` and ``replica_host`` are IP addresses. ``run_dir`` is created with mode 0700 and
    must be the router's own: ``stop()`` removes what the router put there. Every command raises
    :class:`RouterError` when HAProxy does not answer; the wish is remembered all the same, and
    ``restart()`` fulfils it.
    """

    def __init__(
        self,
        *,
        address: str,
        port: int,
        replica_host: str,
        run_dir: Path,
        hold_timeout_seconds: float = HOLD_TIMEOUT_SECONDS,
    ) -> None:
        self._settings = RouterSettings(address, port, replica_host, run_dir)
        self._holder = Holder(run_dir=run_dir, hold_timeout_seconds=hold_timeout_seconds)
        self._slots: dict[int, _Slot] = {}
        self._haproxy: HaproxyProcess | None = None
        self._lock = asyncio.Lock()

    @property
    def alive(self) -> bool:
        return self._haproxy is not None and self._haproxy.alive

    async def start(self) -> None:
        """Start HAProxy and wait until it listens.

        Raises :class:`RouterError` when HAProxy is missing or too old, the port is taken, or it
        refuses its configuration.
        """
        async with self._lock:
            await check_version()
            self._settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._settings.run_dir.chmod(0o700)
            try:
                await self._holder.start()
                self._haproxy = await HaproxyProcess.start(self._settings)
            except BaseException:
                await self._clean_up()
                raise

    async def restart(self) -> None:
        """Replace the HAProxy process and restore every slot's endpoint and state."""
        async with self._lock:
            await self._end()
            self._haproxy = await HaproxyProcess.start(self._settings)
            for index, slot in self._slots.items():
                await self._apply_endpoint(index, slot)
                await self._apply_state(index, slot)

    async def stop(self) -> None:
        """End HAProxy at once: requests in flight are cut, so drain before."""
        async with self._lock:
            await self._clean_up()

    async def set_endpoint(self, index: int, port: int, max_in_flight: int) -> None:
        """Say where replica ``index`` listens and how many requests it takes at once.

        Another port puts the slot in maintenance; the same port leaves its state.
        """
        slot_name(index)
        if not 1 <= port <= 65_535 or max_in_flight < 1:
            raise ValueError(
                f"endpoint of replica {index}: port {port} must be in 1..65535 and "
                f"max_in_flight {max_in_flight} at least 1"
            )
        async with self._lock:
            known = self._slots.get(index)
            if known is not None and known.port == port:
                slot = self._remember(index, replace(known, max_in_flight=max_in_flight))
                await self._apply_limit(index, slot)
            else:
                slot = self._remember(index, _Slot(port, max_in_flight))
                await self._apply_state(index, slot)
                await self._apply_endpoint(index, slot)

    async def admit(self, index: int) -> None:
        """Let the slot take new requests."""
        async with self._lock:
            await self._change_state(index, _SlotState.READY)

    async def drain(self, index: int) -> None:
        """Give the slot no new requests; those in flight finish. A slot without an endpoint has
        none."""
        async with self._lock:
            if index in self._slots:
                await self._change_state(index, _SlotState.DRAIN)

    async def eject(self, index: int) -> None:
        """Put the slot in maintenance and cut its connections, if it has an endpoint: the replica
        is dead."""
        async with self._lock:
            if index in self._slots:
                await self._change_state(index, _SlotState.MAINTENANCE)
                await self._change(f"shutdown sessions server engines/{slot_name(index)}")

    async def refuse_held(self) -> None:
        """Answer 503 from now on to requests that no replica takes, instead of holding them."""
        async with self._lock:
            self._holder.refuse()
            await self._offer_queue_to_holder()

    async def stats(self) -> RouterStats:
        text = await self._running().command(_SHOW_STATS)
        return parse_stats(text, held=self._holder.waiting, slots=self._slots)

    async def _change_state(self, index: int, state: _SlotState) -> None:
        slot = self._slots.get(index)
        if slot is None:
            raise ValueError(f"replica {index} has no endpoint: call set_endpoint first")
        await self._apply_state(index, self._remember(index, replace(slot, state=state)))

    def _remember(self, index: int, slot: _Slot) -> _Slot:
        self._slots[index] = slot
        if any(slot.state is _SlotState.READY for slot in self._slots.values()):
            self._holder.open()
        else:
            self._holder.close()
        return slot

    async def _apply_endpoint(self, index: int, slot: _Slot) -> None:
        host = self._settings.replica_host
        await self._change(
            f"set server engines/{slot_name(index)} addr {host} port {slot.port}", _ADDRESS_CHANGED
        )
        await self._apply_limit(index, slot)

    async def _apply_state(self, index: int, slot: _Slot) -> None:
        """Change the state, then have HAProxy hand out queued requests.

        HAProxy offers its queue when a server ends a request or leaves maintenance, but neither
        when it leaves drain nor to the hold slot when the last replica goes: requests would wait
        until their timeout. Setting a server's limit makes HAProxy offer it the queue.
        """
        await self._change(f"set server engines/{slot_name(index)} state {slot.state}")
        if slot.state is _SlotState.READY:
            await self._apply_limit(index, slot)
        else:
            await self._offer_queue_to_holder()

    async def _offer_queue_to_holder(self) -> None:
        await self._change("set maxconn server engines/hold 1")

    async def _apply_limit(self, index: int, slot: _Slot) -> None:
        await self._change(f"set maxconn server engines/{slot_name(index)} {slot.max_in_flight}")

    async def _change(self, command: str, expected: str = "") -> None:
        answer = (await self._running().command(command)).strip()
        if not re.fullmatch(expected, answer):
            raise RouterError(f"HAProxy refused {command!r}: {answer}")

    def _running(self) -> HaproxyProcess:
        if self._haproxy is None:
            raise RouterError("HAProxy was not started: call start() first")
        return self._haproxy

    async def _end(self) -> None:
        if self._haproxy is not None:
            await self._haproxy.end()

    async def _clean_up(self) -> None:
        await self._end()
        await self._holder.stop()
        for name in (CONFIG_FILE, STATS_SOCKET, RELAY_SOCKET, HOLD_SOCKET):
            (self._settings.run_dir / name).unlink(missing_ok=True)


def parse_stats(text: str, *, held: int, slots: Iterable[int]) -> RouterStats:
    """Read the CSV table of ``show stat``: the backend and its servers.

    ``held`` requests are with the holder and count as queued.
    """
    index_of = {slot_name(index): index for index in slots}
    in_flight = dict.fromkeys(index_of.values(), 0)
    queued = held
    for row in csv.DictReader(io.StringIO(text.strip().removeprefix("# "))):
        queued += int(row["qcur"])
        if row["svname"] in index_of:
            in_flight[index_of[row["svname"]]] = int(row["scur"])
    return RouterStats(queued, in_flight)
