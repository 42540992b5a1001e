"""One loop for each SLMService: passes from the first sight of it to its end.

No finalizer holds a service back: what it owns has owner references, so Kubernetes' garbage
collection removes that in any case, also when no operator runs any more. The loop's end only makes
it happen at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Object
from slm_operator.cluster.packs import Owner, Packs
from slm_operator.controller import Controller
from slm_operator.gate import Gate, Lane
from slm_operator.metrics import Metrics

if TYPE_CHECKING:
    from slm_operator.tracing import Tracing

log = logging.getLogger(__name__)

FAULT_SECONDS = 5.0
"""Until the next pass after one that failed by a fault of the operator's own."""
ENDING_PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Between the looks for what an ended service left: half a minute, then it is up to garbage
collection alone."""


@dataclass(eq=False)
class _Loop:
    obj: Object
    """Without its status."""
    status: str = ""
    """In JSON, until a pass has read it: all services wait at once when the operator starts, and
    their objects would leave holes in the memory for good."""
    due_at: float = 0.0
    """When its next pass fell due, by the event loop's clock."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    """The service is being deleted, or is gone."""
    gone: bool = False
    slow: bool = False
    """Its last pass waited for somebody."""
    task: asyncio.Task[None] | None = None

    @property
    def owner(self) -> Owner:
        return self.obj["metadata"]["namespace"], self.obj["metadata"]["name"]

    @property
    def done(self) -> bool:
        return self.task is None or self.task.done()

    def wake(self) -> None:
        if not self.changed.is_set():
            self.due_at = _clock()
        self.changed.set()


class Loops:
    """The loops of all services. Whatever changes around one only sets an event."""

    def __init__(
        self,
        controller: Controller,
        packs: Packs,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self._controller = controller
        self._packs = packs
        self._metrics = metrics
        self._tracing = tracing
        self._gate = Gate()
        metrics.waiting.set_function(lambda: self._gate.waiting)
        self._by_uid: dict[str, _Loop] = {}
        self._by_name: dict[Owner, list[_Loop]] = {}
        """Mostly one; more while a service of the same name ends."""
        self.newest_version = 0
        """Of any object that was put."""

    async def close(self) -> None:
        """Ends all passes where they are; services and packs stay as they are."""
        tasks = [one.task for loops in self._by_name.values() for one in loops if one.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def versions(self, namespace: str = "") -> dict[str, int]:
        """Of the services of one namespace, or of all, as they were last put, by UID."""
        return {
            uid: _version(loop.obj)
            for uid, loop in self._by_uid.items()
            if namespace in ("", loop.owner[0])
        }

    def put(self, obj: dict[str, Any]) -> None:
        """Keeps ``obj``, and takes from it what is not needed."""
        # Who owns which field is a third of an object, and nothing here asks.
        obj["metadata"].pop("managedFields", None)
        uid, status = obj["metadata"]["uid"], obj.pop("status", None)
        loop = self._by_uid.get(uid)
        if loop is None:
            loop = self._by_uid[uid] = _Loop(obj)
            named = self._by_name.setdefault(loop.owner, [])
            loop.task = asyncio.create_task(self._serve(loop, tuple(named)))
            loop.task.add_done_callback(lambda _: self._drop(loop))
            named.append(loop)
        elif _version(obj) < _version(loop.obj):
            log.warning("%s/%s is an older one: what is stored was restored", *loop.owner)
            self._controller.forget(uid)
        self.newest_version = max(self.newest_version, _version(obj))
        loop.obj = obj
        loop.status = "" if self._controller.remembers(uid) else json.dumps(status)
        loop.ending = loop.ending or "deletionTimestamp" in obj["metadata"]
        loop.wake()

    def remove(self, uid: str) -> None:
        loop = self._by_uid.pop(uid, None)
        if loop is None:
            return
        loop.ending = loop.gone = True
        loop.wake()
        self._drop(loop)

    def wake(self, namespace: str, name: str) -> None:
        """Nothing to do where no loop runs: one that starts looks at everything first."""
        for loop in self._by_name.get((namespace, name), ()):
            loop.wake()

    def _drop(self, loop: _Loop) -> None:
        """Also a second time: the service may be gone in the turn in which its task ends."""
        named = self._by_name.get(loop.owner, [])
        if loop.gone and loop.done and loop in named:
            named.remove(loop)
            if not named:
                del self._by_name[loop.owner]

    async def _serve(self, loop: _Loop, former: Sequence[_Loop]) -> None:
        """``former``: services of the same name, whose children's names have to be free first."""
        for other in former:
            if other.task is not None:
                await asyncio.wait([other.task])
        news = True
        while not loop.ending:
            # What changed does not wait among those that are only looked at again.
            lane = Lane.NEWS if news else Lane.SLOW if loop.slow else Lane.ROUTINE
            async with self._gate.turn(lane, loop.changed) as turn:
                self._metrics.lag_seconds.observe(_clock() - loop.due_at)
                loop.changed.clear()
                delay = await self._pass(loop)
            loop.slow = turn.overstayed
            if self._controller.remembers(loop.obj["metadata"]["uid"]):
                loop.status = ""
            try:
                await asyncio.wait_for(loop.changed.wait(), delay)
            except TimeoutError:
                news, loop.due_at = False, _clock()
            else:
                news = True
        await self._end(loop)

    async def _pass(self, loop: _Loop) -> float:
        obj = {**loop.obj, "status": json.loads(loop.status or "null")}
        with self._span("reconcile", loop):
            try:
                return await self._controller.reconcile(obj, self._packs.of(*loop.owner))
            except Exception as error:
                self._metrics.failed_passes.labels(reason="InternalError").inc()
                if self._tracing is not None:
                    self._tracing.failed("InternalError", type(error).__name__)
                log.exception("%s/%s: again in %g s", *loop.owner, FAULT_SECONDS)
                return FAULT_SECONDS

    def _span(self, what: str, loop: _Loop) -> AbstractContextManager[None]:
        if self._tracing is None:
            return nullcontext()
        return self._tracing.one_pass(what, loop.obj["metadata"])

    async def _end(self, loop: _Loop) -> None:
        """Looks again until nothing was left to remove: what the last pass made may show late."""
        # kubectl delete --cascade=orphan
        orphaned = "orphan" in loop.obj["metadata"].get("finalizers", ())
        try:
            for pause in () if orphaned else ENDING_PAUSES_SECONDS:
                if not await self._finalize(loop):
                    return
                await asyncio.sleep(pause)
        finally:
            await self._controller.let_go(loop.obj, orphaned=orphaned)

    async def _finalize(self, loop: _Loop) -> bool:
        """False when there was nothing to remove any more."""
        with self._span("finalize", loop):
            try:
                return await self._controller.finalize(loop.obj, self._packs.of(*loop.owner))
            except KubeError as error:
                if self._tracing is not None:
                    self._tracing.failed(error.reason, error.message)
                log.warning("%s/%s: removing what it owned: %s", *loop.owner, error)
                return True


def _clock() -> float:
    return asyncio.get_running_loop().time()


def _version(obj: Object) -> int:
    """Rises with each write; Kubernetes lets versions of one kind be compared as numbers."""
    return int(obj["metadata"].get("resourceVersion", 0))
