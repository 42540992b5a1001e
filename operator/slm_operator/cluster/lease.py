"""One leader among several operators, by a Lease of coordination.k8s.io/v1.

The client's own leaderelection is not used: it goes by the wall clock, waits for an answer without
end, and does not tell for how long the lease is held.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from slm_operator.cluster.connection import KubeError, reading
from slm_operator.cluster.kube import Kube, Object, get_or_none
from slm_operator.cluster.permit import Permit, boottime

log = logging.getLogger(__name__)

API_VERSION, KIND = "coordination.k8s.io/v1", "Lease"

DURATION_SECONDS = 10
"""Nobody else takes a lease that was renewed so lately. Another sees the last renewal within
LOOK_SECONDS, and that no other came as soon after: with its start it leads within 15 s."""
RENEW_SECONDS = 2.0
LOOK_SECONDS = 1.0
"""Between two looks of a standby, and after a renewal that failed."""
MARGIN_SECONDS = 2.5
"""A leader stops writing so long before another may begin: what it sent last has to arrive."""
REQUEST_SECONDS = 1.5
"""Longer, and a request is given up: three fit between the last renewal and the end."""


@dataclass(frozen=True)
class Election:
    """Which Lease the operators of a cluster share, and who this one is."""

    namespace: str
    name: str
    identity: str
    """Different for each process, also for one that is started again."""


@dataclass(frozen=True)
class Record:
    """What a Lease says, and by which version of it."""

    version: str
    holder: str
    duration_seconds: float
    acquired: datetime
    transitions: int


class Lease:
    """This process's view of the Lease. It extends ``permit`` while it leads, and is the only one
    to do so. ``kube`` has to be a connection of its own, which no other request holds up."""

    def __init__(
        self,
        kube: Kube,
        permit: Permit,
        election: Election,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._kube = kube
        self._permit = permit
        self._election = election
        self._now = now
        self._clock = clock
        self._seen: Record | None = None
        self._free_at_seconds = 0.0
        """When the record that was seen last may be taken, if it stays as it is."""
        self._told = ""

    async def acquire(self) -> None:
        """Returns once this process leads."""
        while True:
            if await self.look():
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def keep(self) -> None:
        """Renews the lease, and returns when this process leads no longer."""
        pause = RENEW_SECONDS
        while True:
            await asyncio.sleep(pause)
            # After a long pause not even the lease is asked for: it may be somebody else's.
            if not self._permit.holds:
                return
            pause = RENEW_SECONDS if await self.look() else LOOK_SECONDS

    async def release(self) -> None:
        """Lets another lead at once; does nothing when somebody else does. Nothing may be written
        after."""
        self._permit.end()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                while self._is_mine and not await self._released():
                    # A renewal that was broken off had been written all the same.
                    self._seen = await self._read()
        except (KubeError, TimeoutError) as error:
            log.warning("the lease ends by itself, since it could not be released: %r", error)

    async def _released(self) -> bool:
        """False where the lease is not as it was seen."""
        try:
            await self._write(self._seen, "")
        except KubeError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return False
        return True

    async def look(self) -> bool:
        """Takes or renews the lease if it may. Returns whether that worked."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await self._look()
        except (KubeError, TimeoutError) as error:
            log.warning("lease %s/%s: %r", self._election.namespace, self._election.name, error)
            return False

    async def _look(self) -> bool:
        if not self._is_mine:
            self._see(await self._read())
        if not self._is_mine and self._clock() < self._free_at_seconds:
            return False
        try:
            await self._take()
        except KubeError as error:
            if error.status in (HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND):
                self._see(await self._read())
                if not self._is_mine:
                    self._permit.end()
            raise
        return True

    @property
    def _is_mine(self) -> bool:
        return self._seen is not None and self._seen.holder == self._election.identity

    def _see(self, found: Record | None) -> None:
        before, self._seen = self._seen, found
        if found == before:
            return
        # A Lease that was deleted was held by somebody, who has yet to notice.
        whose = found or before
        wait = whose.duration_seconds if whose and whose.holder else 0.0
        self._free_at_seconds = self._clock() + wait
        holder = found.holder if found else ""
        if holder != self._told and not self._is_mine:
            log.info("standby: %s leads", holder or "nobody")
            self._told = holder

    async def _take(self) -> None:
        seen, sent_at_seconds = self._seen, self._clock()
        taken = await self._write(seen, self._election.identity)
        # From before it was sent, so that it ends here before anybody else can think so.
        self._permit.extend(
            sent_at_seconds + DURATION_SECONDS - MARGIN_SECONDS, _epoch(taken.acquired)
        )
        if seen is None or seen.holder != self._election.identity:
            log.info("leading as %s, epoch %d", self._election.identity, self._permit.epoch)

    async def _write(self, seen: Record | None, holder: str) -> Record:
        now = self._now()
        acquired, transitions = now, 0
        if seen is not None:
            # Ascending even where clocks differ, since epochs are made from it.
            acquired = max(now, seen.acquired + timedelta(microseconds=1))
            transitions = seen.transitions + 1
            if seen.holder == self._election.identity:
                acquired, transitions = seen.acquired, seen.transitions
        lease: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self._election.name, "namespace": self._election.namespace},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": DURATION_SECONDS,
                "acquireTime": _text(acquired),
                "renewTime": _text(now),
                "leaseTransitions": transitions,
            },
        }
        if seen is None:
            answer = await self._kube.create(lease)
        else:
            lease["metadata"]["resourceVersion"] = seen.version
            answer = await self._kube.replace(lease)
        self._seen = _record(answer)
        return self._seen

    async def _read(self) -> Record | None:
        election = self._election
        found = await get_or_none(self._kube, API_VERSION, KIND, election.name, election.namespace)
        return None if found is None else _record(found)


@asynccontextmanager
async def leading(election: Election, permit: Permit) -> AsyncIterator[None]:
    """Begins when this process leads, and lets another lead when it is left. The process ends when
    it leads no longer: what it holds in memory is out of date then, and a call that is under way
    could not be told from one that is due."""
    kube = await Kube.connect()
    lease = Lease(kube, permit, election)
    try:
        await lease.acquire()
        keeping = asyncio.create_task(_keep(lease))
        try:
            yield
        finally:
            keeping.cancel()
            await lease.release()
    finally:
        await kube.close()


async def _keep(lease: Lease) -> None:
    try:
        await lease.keep()
    except Exception:
        log.exception("the lease could not be kept")
    log.critical("this operator leads no longer: it ends, to be started again as a standby")
    # Nothing is waited for that could hang or write.
    os._exit(os.EX_TEMPFAIL)


def _record(lease: Object) -> Record:
    """Raises KubeError for an answer that is no Lease."""
    with reading("the request for a Lease", "none"):
        spec = lease.get("spec") or {}
        acquired = spec.get("acquireTime")
        return Record(
            version=lease["metadata"]["resourceVersion"],
            holder=spec.get("holderIdentity") or "",
            duration_seconds=spec.get("leaseDurationSeconds") or DURATION_SECONDS,
            acquired=datetime.fromisoformat(acquired)
            if acquired
            else datetime.fromtimestamp(0, UTC),
            transitions=spec.get("leaseTransitions") or 0,
        )


def _epoch(acquired: datetime) -> int:
    """Microseconds since 1970: unlike the count of transitions it rises even when the Lease was
    deleted, or came back from an older copy."""
    return round(acquired.timestamp() * 1_000_000)


def _text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
