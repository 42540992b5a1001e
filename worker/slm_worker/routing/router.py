"""The router inside a pack: replicas' slots in HAProxy, moved by its runtime API.

A slot starts in maintenance; where it points, whether it takes requests and how they are balanced
changes over HAProxy's stats socket, never by a reload, so that no change drops a request or cuts a
stream. While no slot takes requests they are held; see :mod:`slm_worker.routing.holder`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from slm_worker.routing.config import (
    BACKEND_OF,
    BALANCES,
    CONFIG_FILE,
    DEFAULT_TIMEOUTS,
    HOLD_SOCKET,
    RELAY_SOCKET,
    ROUTING_MAP,
    STATS_SOCKET,
    Balance,
    ClientTimeouts,
    RouterSettings,
)
from slm_worker.routing.haproxy import HaproxyProcess, check_version
from slm_worker.routing.holder import Holder
from slm_worker.routing.limits import is_crowded, limit
from slm_worker.routing.listener import RouterError, listen
from slm_worker.routing.slots import (
    ACCEPTED,
    OFFER_QUEUE_TO_HOLDER,
    Slot,
    SlotState,
    cut_commands,
    endpoint_commands,
    limit_command,
    map_commands,
    state_commands,
)
from slm_worker.routing.stats import (
    NO_COUNTS,
    NO_STATS,
    RouterStats,
    commands,
    parse_stats,
    report,
)
from slm_worker.wire import RouterState, Routing

__all__ = ["HOLD_TIMEOUT_SECONDS", "Router", "RouterError", "RouterStats"]

HOLD_TIMEOUT_SECONDS = 300.0
"""How long requests wait for a replica: a lone replica restarts well within it."""


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
        timeouts: ClientTimeouts = DEFAULT_TIMEOUTS,
    ) -> None:
        self._settings = RouterSettings(address, port, replica_host, run_dir, timeouts)
        self._holder = Holder(run_dir=run_dir, hold_timeout_seconds=hold_timeout_seconds)
        self._slots: dict[int, Slot] = {}
        self._routing = Routing()
        self._stats = NO_STATS
        self._crowded = False
        self._keeps_connections = True
        self._told: dict[str, str] = {}
        """What the present HAProxy was told: a command's last word by those before it."""
        self._counts_before = NO_COUNTS
        self._restarts = 0
        self._listener: socket.socket | None = None
        self._haproxy: HaproxyProcess | None = None
        self._lock = asyncio.Lock()

    @property
    def alive(self) -> bool:
        return self._haproxy is not None and self._haproxy.alive

    @property
    def state(self) -> RouterState:
        """As the last look saw it."""
        counts = self._counts_before.plus(self._stats.counts)
        return report(counts, self._stats, self._restarts)

    async def start(self) -> None:
        """Listen, start HAProxy and wait until it answers.

        Raises :class:`RouterError` when HAProxy is missing or too old, the port is taken, or it
        refuses its configuration.
        """
        async with self._lock:
            await check_version()
            self._settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._settings.run_dir.chmod(0o700)
            try:
                self._listener = listen(self._settings.address, self._settings.port)
                await self._holder.start()
                await self._launch()
            except BaseException:
                await self._clean_up()
                raise

    async def restart(self) -> None:
        """Replace the HAProxy process and restore every slot's endpoint and state.

        New connections wait meanwhile; those that there were are cut.
        """
        async with self._lock:
            if self._haproxy is not None:
                await self._haproxy.end()
            self._restarts += 1
            await self._launch()

    def send_clients_away(self) -> None:
        """From the next look on each answer ends its connection: the pack will end, and clients
        that keep theirs would come back for as long as it is there."""
        self._keeps_connections = False

    async def finish(self, seconds: float) -> bool:
        """Take no more connections, close those that wait for nothing, and end when the others are
        answered, or after ``seconds``. Answers whether all were. Afterwards nothing but ``stop()``
        is of use."""
        async with self._lock:
            if self._listener is not None:
                self._listener.close()
                self._listener = None
            return self._haproxy is None or await self._haproxy.finish(seconds)

    async def stop(self) -> None:
        """End HAProxy at once: requests in flight are cut, so drain before."""
        async with self._lock:
            await self._clean_up()

    async def set_endpoint(self, index: int, port: int, max_num_seqs: int) -> None:
        """Say where replica ``index`` listens and how many sequences it batches.

        Another port puts the slot in maintenance; the same port leaves its state.
        """
        if not 1 <= port <= 65_535 or max_num_seqs < 1:
            raise ValueError(
                f"endpoint of replica {index}: port {port} must be in 1..65535 and "
                f"max_num_seqs {max_num_seqs} at least 1"
            )
        async with self._lock:
            known = self._slots.get(index)
            if known is not None and known.port == port:
                self._remember(index, replace(known, max_num_seqs=max_num_seqs))
                await self._change(self._limit_commands(index))
            else:
                slot = self._remember(index, Slot(port, max_num_seqs))
                await self._change(
                    [*self._slot_commands(index, slot), *self._endpoint(index, slot)]
                )

    async def admit(self, index: int) -> None:
        """Let the slot take new requests."""
        async with self._lock:
            await self._change_state(index, SlotState.READY)

    async def drain(self, index: int) -> None:
        """Give the slot no new requests; those in flight finish. A slot without an endpoint has
        none."""
        async with self._lock:
            if index in self._slots:
                await self._change_state(index, SlotState.DRAIN)

    async def eject(self, index: int) -> None:
        """Put the slot in maintenance and cut its connections, if it has an endpoint: the replica
        is dead."""
        async with self._lock:
            if index in self._slots:
                await self._change_state(index, SlotState.MAINTENANCE)
                await self._change(cut_commands(index))

    async def refuse_held(self) -> None:
        """Answer 503 from now on to requests that no replica takes, instead of holding them."""
        async with self._lock:
            self._holder.refuse()
            await self._change(OFFER_QUEUE_TO_HOLDER)

    async def stats(self) -> RouterStats:
        async with self._lock:
            return await self._look()

    async def tend(self, routing: Routing) -> RouterStats:
        """One look, and what follows from it; to be called a few times a second.

        Requests are balanced and queued by ``routing`` from now on. Replicas get a margin over
        their batch while requests fill all of them; see :mod:`slm_worker.routing.limits`.
        """
        async with self._lock:
            stats = await self._look()
            other_timeout = routing.queue_timeout_seconds != self._routing.queue_timeout_seconds
            if other_timeout and stats.idle:
                await self._replace(routing)
                return self._stats
            ready = [i for i, slot in self._slots.items() if slot.state is SlotState.READY]
            batches = [self._slots[index].max_num_seqs for index in ready]
            requests = stats.queued + sum(
                stats.balanced[balance][index] for balance in BALANCES for index in ready
            )
            self._crowded = is_crowded(batches, requests)
            # The timeout stays what the present process was started with.
            timeout = self._routing.queue_timeout_seconds
            self._routing = routing.model_copy(update={"queue_timeout_seconds": timeout})
            wanted = [command for index in ready for command in self._limit_commands(index)]
            wanted += map_commands(
                self._settings.run_dir / ROUTING_MAP,
                self._routing,
                keeps_connections=self._keeps_connections,
            )
            await self._change(command for command in wanted if not self._is_told(command))
            return stats

    async def _look(self) -> RouterStats:
        asked = list(self._slots)
        text = await self._running().command(";".join(commands(asked)))
        try:
            self._stats = parse_stats(text, held=self._holder.waiting, slots=asked)
        except (KeyError, ValueError) as error:
            raise RouterError(f"HAProxy's statistics lack something: {error!r}") from error
        return self._stats

    async def _replace(self, routing: Routing) -> None:
        """Start HAProxy again with ``routing``, while it has nothing to do."""
        if self._haproxy is not None:
            await self._haproxy.finish()
        self._routing = routing
        await self._launch()

    async def _launch(self) -> None:
        """Start HAProxy as everything was wished; what the one before it counted is kept."""
        self._counts_before = self._counts_before.plus(self._stats.counts.ended())
        self._stats = NO_STATS
        self._told.clear()
        if self._listener is None:
            raise RouterError("the router does not listen: call start() first")
        self._haproxy = await HaproxyProcess.start(
            self._settings,
            self._routing,
            self._listener,
            keeps_connections=self._keeps_connections,
        )
        await self._change(
            command
            for index, slot in self._slots.items()
            for command in (*self._endpoint(index, slot), *self._slot_commands(index, slot))
        )

    async def _change_state(self, index: int, state: SlotState) -> None:
        slot = self._slots.get(index)
        if slot is None:
            raise ValueError(f"replica {index} has no endpoint: call set_endpoint first")
        slot = self._remember(index, replace(slot, state=state))
        await self._change(self._slot_commands(index, slot))

    def _remember(self, index: int, slot: Slot) -> Slot:
        self._slots[index] = slot
        if any(slot.state is SlotState.READY for slot in self._slots.values()):
            self._holder.open()
        else:
            self._holder.close()
        return slot

    def _slot_commands(self, index: int, slot: Slot) -> list[str]:
        """Its state, and what has HAProxy hand out queued requests by it."""
        states = state_commands(index, slot.state)
        if slot.state is SlotState.READY:
            limits = self._limit_commands(index)
            # First too, since requests may come as soon as the slot is ready.
            return limits + states + limits
        return states + OFFER_QUEUE_TO_HOLDER

    def _endpoint(self, index: int, slot: Slot) -> list[str]:
        return endpoint_commands(index, self._settings.replica_host, slot.port)

    def _limit_commands(self, index: int) -> list[str]:
        batch = self._slots[index].max_num_seqs
        return [
            limit_command(
                index,
                balance,
                limit(batch, crowded=self._crowded, elsewhere=self._elsewhere(index, balance)),
            )
            for balance in BALANCES
        ]

    def _elsewhere(self, index: int, balance: Balance) -> int:
        """After a change of mode the old backend keeps what it has, and the new one gets the rest
        of each replica."""
        if balance != BACKEND_OF[self._routing.mode]:
            return 0
        return sum(
            in_flight.get(index, 0)
            for other, in_flight in self._stats.balanced.items()
            if other != balance
        )

    def _is_told(self, command: str) -> bool:
        what, _, value = command.rpartition(" ")
        return self._told.get(what) == value

    async def _change(self, wanted: Iterable[str]) -> None:
        orders = list(wanted)
        if not orders:
            return
        line = ";".join(orders)
        try:
            answer = await self._running().command(line)
            for said in answer.splitlines():
                if not ACCEPTED.fullmatch(said):
                    raise RouterError(f"HAProxy refused one of {line[:200]!r}: {said}")
        except RouterError:
            self._told.clear()  # nobody knows how much of it was done
            raise
        for order in orders:
            what, _, value = order.rpartition(" ")
            self._told[what] = value

    def _running(self) -> HaproxyProcess:
        if self._haproxy is None:
            raise RouterError("HAProxy was not started: call start() first")
        return self._haproxy

    async def _clean_up(self) -> None:
        if self._haproxy is not None:
            await self._haproxy.end()
        await self._holder.stop()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for name in (CONFIG_FILE, ROUTING_MAP, STATS_SOCKET, RELAY_SOCKET, HOLD_SOCKET):
            (self._settings.run_dir / name).unlink(missing_ok=True)
