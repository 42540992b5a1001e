"""What must be there before replicas can run: device, model, engine, router.

Each that is missing is a problem with a remedy, tried again after a backoff, so that a pack heals
when the cause goes: a driver that loads late, a model that is still being copied.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from slm_worker.engine.base import Engine
from slm_worker.engine.factory import EngineUnusableError
from slm_worker.gpu.base import Device, DeviceError, DeviceIdentity
from slm_worker.planning.footprint import ModelError, ModelFootprint
from slm_worker.planning.learning import StartedReplica, learn
from slm_worker.problems import ProblemLog
from slm_worker.routing.router import Router, RouterError
from slm_worker.wire import Outlook, Problem

log = logging.getLogger(__name__)


class BringUp:
    """Opens in order; :meth:`attempt` may be repeated until it succeeds, and does nothing then."""

    def __init__(
        self,
        *,
        open_device: Callable[[], Awaitable[Device]],
        read_model: Callable[[], ModelFootprint | None],
        look_out: Callable[[DeviceIdentity], tuple[Outlook, ...]],
        open_engine: Callable[[], Engine],
        router: Router,
        clock: Callable[[], float],
    ) -> None:
        self._open_device = open_device
        self._read_model = read_model
        self._look_out = look_out
        self._open_engine = open_engine
        self._clock = clock
        self._trouble = ProblemLog(clock)
        self.router = router
        self.device: Device | None = None
        self.model_read = False
        self.footprint: ModelFootprint | None = None
        self.outlook: tuple[Outlook, ...] = ()
        self.engine: Engine | None = None

    @property
    def problem(self) -> Problem | None:
        return self._trouble.current

    async def attempt(self) -> bool:
        """Answers whether everything is there."""
        if self.engine is not None and self.router.alive:
            return True
        if self._clock() < self._trouble.retry_at_seconds:
            return False
        try:
            if self.device is None:
                self.device = await self._open_device()
            if not self.model_read:
                await self.read_model()
            if self.engine is None:
                engine = self._open_engine()
                await self.router.start()
                self.engine = engine
            else:
                await self.router.restart()
        except (ModelError, EngineUnusableError) as error:
            self._trouble.report(error.reason, error.message)
            return False
        except DeviceError as error:
            self._trouble.report("DeviceUnavailable", str(error))
            return False
        except RouterError as error:
            self._trouble.report("RouterUnavailable", str(error))
            return False
        self._trouble.clear()
        return True

    async def read_model(self) -> None:
        """Reads the model's size; once its weights were read or measured this does nothing.

        Until then they may still be on their way: the engine of the first replica downloads them.
        Raises ModelError.
        """
        if self.footprint is not None and self.footprint.weights_source != "estimated":
            return
        found = await asyncio.to_thread(self._read_model)
        # What a start taught, also while this read, stays.
        known = self.footprint
        if known is None:
            self.footprint = found
        elif found is not None and known.weights_source == "estimated":
            self.footprint = found.model_copy(update={"measured": known.measured})
        self.model_read = True
        if self.device is not None and known is None:
            self.outlook = await self._looked_out(self.device.identity)

    async def _looked_out(self, identity: DeviceIdentity) -> tuple[Outlook, ...]:
        """Empty where that fails: an outlook helps a search to begin, and no replica needs one."""
        try:
            return await asyncio.to_thread(self._look_out, identity)
        except Exception:
            log.exception("no outlook for this model and device")
            return ()

    def learn(self, started: StartedReplica) -> None:
        """What a start has shown corrects the sizes of the layouts to come."""
        if self.footprint is not None:
            self.footprint = learn(self.footprint, started)

    async def close(self) -> None:
        with contextlib.suppress(RouterError):
            await self.router.stop()
        if self.device is not None:
            await self.device.close()
