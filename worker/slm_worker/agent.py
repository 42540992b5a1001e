"""The agent: walks the pack to the accepted plan, measures it, and says how far it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from slm_worker.bringup import BringUp
from slm_worker.ending import drain
from slm_worker.load import LoadTooLongError
from slm_worker.loading import UNATTENDED_MESSAGE, UNATTENDED_SECONDS
from slm_worker.planning.footprint import ModelError
from slm_worker.planning.packing import LayoutError
from slm_worker.problems import ProblemLog
from slm_worker.replicas.fleet import Fleet
from slm_worker.replicas.planner import Target
from slm_worker.replicas.replica import EngineHost
from slm_worker.reporting import gpu_state
from slm_worker.routing.router import RouterError
from slm_worker.sampling import Sampler
from slm_worker.sizing import check_fits, packing_of, target_of
from slm_worker.wire import (
    ApiError,
    GpuConfig,
    Layout,
    Load,
    LoadState,
    Packing,
    PackState,
    Plan,
    Problem,
)

TICK_SECONDS = 0.25
STALE_TICK_SECONDS = 60.0
"""A pass that lasts longer than this is taken for dead."""
ROUTER_FAILURES_UNTIL_RESTART = 3
LINGER_ON_EXIT_SECONDS = 5.0
"""How long a pack that shall end serves on as before: until its removal from the Service has
reached every node, new requests still come."""

log = logging.getLogger(__name__)


class PlanRefusedError(Exception):
    """``status`` is the HTTP status of the refusal."""

    def __init__(self, status: int, error: ApiError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class LoadKeeper(Protocol):
    """Keeps the calibration load as it is wanted."""

    @property
    def state(self) -> LoadState: ...

    async def match(self, load: Load | None, rotation: int, max_num_seqs: int) -> None:
        """Sends ``load`` to ``rotation`` replicas from now on; None ends it. Raises
        LoadTooLongError."""


class Agent:
    """``make_host`` is called once device and engine are there."""

    def __init__(
        self,
        *,
        agent_id: str,
        version: str,
        gpu: GpuConfig,
        bring_up: BringUp,
        make_host: Callable[[BringUp], EngineHost],
        load: LoadKeeper,
        clock: Callable[[], float],
        linger_seconds: float = LINGER_ON_EXIT_SECONDS,
    ) -> None:
        self._agent_id = agent_id
        self._version = version
        self._gpu = gpu
        self._bring_up = bring_up
        self._make_host = make_host
        self._load = load
        self._clock = clock
        self._linger_seconds = linger_seconds
        self._wake = asyncio.Event()
        self._plan: Plan | None = None
        self._sized: tuple[Layout, Target] | None = None
        self._followed: Target | None = None
        self._settled_since_seconds: float | None = None
        self._ticked_at_seconds = clock()
        self._attended_at_seconds = clock()
        self._load_message = ""
        self._ending = False
        self._fleet: Fleet | None = None
        self._sampler: Sampler | None = None
        self._sampling: asyncio.Task[None] | None = None
        self._pass_trouble = ProblemLog(clock)
        self._layout_trouble = ProblemLog(clock)
        self._load_trouble = ProblemLog(clock)

    # What the API asks.

    def attend(self) -> None:
        """An operator asks something, so it is there."""
        self._attended_at_seconds = self._clock()

    def accept(self, plan: Plan) -> None:
        """Raises PlanRefusedError."""
        current = self._plan
        if plan == current:
            return
        if current is not None and plan.generation <= current.generation:
            raise PlanRefusedError(
                409,
                ApiError(
                    reason="StaleGeneration",
                    message=f"generation {plan.generation} is not newer than the accepted "
                    f"{current.generation}: read the pack, then plan with a higher one",
                ),
            )
        self._refuse_what_does_not_fit(plan)
        log.info("plan %s", plan.model_dump_json())
        self._plan = plan
        self._load_message = ""
        self._settled_since_seconds = None
        self._wake.set()

    @property
    def alive(self) -> bool:
        return self._clock() - self._ticked_at_seconds < STALE_TICK_SECONDS

    @property
    def not_ready(self) -> str | None:
        """Why nobody answers here; None when somebody does."""
        if self._ending:
            return "the pack ends"
        if self._fleet is not None and any(one.admitted for one in self._fleet.replicas.values()):
            return None
        problem = self._problem()
        if problem is not None:
            return f"{problem.reason}: {problem.message}"
        return "no plan yet" if self._plan is None else "no replica is in rotation yet"

    def state(self) -> PackState:
        plan, sampler = self._plan, self._sampler
        replicas = self._fleet.replicas if self._fleet else {}
        return PackState(
            agent_id=self._agent_id,
            version=self._version,
            clock_seconds=self._clock(),
            gpu=gpu_state(self._gpu, self._bring_up.device, sampler),
            packing=self._packing(plan),
            plan=plan,
            settled=self._settled_since_seconds is not None,
            settled_since_seconds=self._settled_since_seconds,
            standby_message=self._standby_message(),
            replicas=tuple(one.state() for _, one in sorted(replicas.items())),
            router_queue=sampler.router_queue if sampler else 0,
            router=self._bring_up.router.state,
            load=self._load.state,
            load_message=self._load_message,
            counters=sampler.counters if sampler else None,
            problem=self._problem(),
        )

    def _standby_message(self) -> str:
        asleep = self._plan is not None and self._plan.standby == "Asleep"
        return self._fleet.cannot_sleep if asleep and self._fleet else ""

    def _packing(self, plan: Plan | None) -> Packing | None:
        device, sized = self._bring_up.device, self._sized
        if device is None or not self._bring_up.model_read:
            return None
        in_place = sized[1] if sized is not None and plan and sized[0] == plan.layout else None
        packing = packing_of(
            self._bring_up.footprint,
            device.identity,
            device.mps,
            self._gpu.mps.fallback,
            reserve_bytes=self._gpu.memory_reserve_bytes,
            plan=plan,
            settings=in_place.settings if in_place else None,
        )
        return packing.model_copy(update={"outlook": self._bring_up.outlook})

    def _refuse_what_does_not_fit(self, plan: Plan) -> None:
        """Raises PlanRefusedError."""
        device, packing = self._bring_up.device, self._packing(plan)
        if device is None or packing is None:
            return
        try:
            check_fits(plan, packing, device.identity)
        except LayoutError as error:
            raise PlanRefusedError(
                422,
                ApiError(
                    reason="DoesNotFit",
                    message=str(error),
                    max_replicas=packing.max_replicas,
                ),
            ) from None

    def _problem(self) -> Problem | None:
        """The most severe: what stops all, then layout, load, device, single replicas."""
        for known in (
            self._bring_up.problem,
            self._pass_trouble.current,
            self._layout_trouble.current,
            self._load_trouble.current,
            self._sampler.device_problem if self._sampler else None,
        ):
            if known is not None:
                return known
        replicas = self._fleet.replicas.values() if self._fleet else ()
        return next((one.problem for one in replicas if one.problem is not None), None)

    # What the agent does by itself.

    async def run(self, end: asyncio.Event) -> None:
        """Until ``end`` is set; then serves on for a moment, drains and leaves no process."""
        ending = asyncio.create_task(end.wait())
        try:
            while not end.is_set():
                await self._guarded_pass()
                await self._until_woken(ending)
            await self._linger()
        finally:
            ending.cancel()
            await self._close()

    async def _until_woken(self, *others: asyncio.Task[bool]) -> None:
        """Until something happened that the next pass should see, or a tick is over."""
        waking = asyncio.create_task(self._wake.wait())
        await asyncio.wait(
            {waking, *others}, timeout=TICK_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        waking.cancel()

    async def _end_unattended_load(self) -> None:
        """Whatever hinders a pass. The plan loses it, so that an operator that comes back sees
        that it has to plan anew."""
        plan = self._plan
        unattended_seconds = self._clock() - self._attended_at_seconds
        if plan is None or plan.load is None or unattended_seconds < UNATTENDED_SECONDS:
            return
        log.warning("%s", UNATTENDED_MESSAGE)
        self._load_message = UNATTENDED_MESSAGE
        self._plan = plan.model_copy(update={"load": None})
        # A window that began under the load does not go on without it.
        self._settled_since_seconds = None
        await self._load.match(None, 1, 1)

    async def _linger(self) -> None:
        """Serves on without being ready, so that no new requests come when it is over."""
        self._ending = True
        self._bring_up.router.send_clients_away()
        self._settled_since_seconds = None
        until_seconds = self._clock() + self._linger_seconds
        while self._fleet is not None and self._clock() < until_seconds:
            await self._guarded_pass()
            await self._until_woken()

    def _ticked(self) -> None:
        self._ticked_at_seconds = self._clock()

    async def _guarded_pass(self) -> None:
        self._wake.clear()
        self._ticked()
        try:
            await self._end_unattended_load()
            settled = await self._pass()
        except RouterError as error:
            settled = False
            self._pass_trouble.report("RouterFailed", str(error))
            if self._pass_trouble.failures >= ROUTER_FAILURES_UNTIL_RESTART:
                await self._restart_router()
        except Exception as error:
            # A supervisor that ends would end the replicas that still serve.
            settled = False
            log.exception("pass failed")
            self._pass_trouble.report("InternalError", f"{error!r}; the agent's log has more")
        else:
            self._pass_trouble.clear()
        if not settled or self._ending:
            self._settled_since_seconds = None
        elif self._settled_since_seconds is None:
            self._settled_since_seconds = self._clock()

    async def _restart_router(self) -> None:
        try:
            await self._bring_up.router.restart()
        except Exception:
            # The next pass tries again; a supervisor that ends would end the replicas.
            log.exception("the router's restart failed")

    async def _pass(self) -> bool:
        """One pass towards the plan; answers whether the pack is what the plan wants."""
        if not await self._bring_up.attempt():
            return False
        fleet = self._ensure_fleet()
        plan = self._plan
        if plan is None:
            return False
        sized = await self._target(plan)
        # Whoever serves is supervised on, whatever is wrong with the layout that shall follow.
        target = sized or self._followed
        if target is None:
            return False
        self._followed = target
        stats = await self._bring_up.router.tend(plan.routing)
        as_planned = await fleet.step(target, stats.in_flight) and sized is not None
        wanted_load = plan.load if as_planned and not self._ending else None
        try:
            await self._load.match(wanted_load, plan.rotation, plan.layout.max_num_seqs)
        except LoadTooLongError as error:
            self._load_trouble.report("CalibrationTooLong", str(error))
            return False
        self._load_trouble.clear()
        return as_planned and plan is self._plan

    def _ensure_fleet(self) -> Fleet:
        device, router = self._bring_up.device, self._bring_up.router
        if self._fleet is None or self._sampler is None:
            if device is None:
                raise RuntimeError("no device after a complete bring-up")
            fleet = Fleet(
                self._make_host(self._bring_up),
                router,
                clock=self._clock,
                wake=self._wake.set,
                last_reading=self._read_once,
            )
            self._fleet = fleet
            self._sampler = Sampler(
                device,
                router,
                running=fleet.running,
                starts=lambda: fleet.starts,
                clock=self._clock,
            )
        if self._sampling is None or self._sampling.done():
            ended, self._sampling = self._sampling, asyncio.create_task(self._sampler.run())
            if ended is not None:
                ended.result()
        return self._fleet

    async def _read_once(self) -> None:
        if self._sampler is not None:
            await self._sampler.sample()

    async def _target(self, plan: Plan) -> Target | None:
        """A layout is sized once: what becomes known of the model later changes none that runs."""
        if self._sized is not None and self._sized[0] == plan.layout:
            self._layout_trouble.clear()
            sized = self._sized[1]
            return replace(sized, rotation=plan.rotation, asleep=plan.standby == "Asleep")
        device = self._bring_up.device
        if device is None:
            return None
        try:
            await self._bring_up.read_model()
            target = target_of(
                plan,
                self._bring_up.footprint,
                device.identity,
                device.mps,
                self._gpu.mps.fallback,
                reserve_bytes=self._gpu.memory_reserve_bytes,
            )
        except ModelError as error:
            self._layout_trouble.report(error.reason, error.message)
            return None
        except LayoutError as error:
            self._layout_trouble.report("DoesNotFit", str(error))
            return None
        self._layout_trouble.clear()
        self._sized = (plan.layout, target)
        return replace(target, asleep=plan.standby == "Asleep")

    async def _close(self) -> None:
        self._ending = True
        self._settled_since_seconds = None
        await self._load.match(None, 1, 1)
        if self._fleet is not None:
            await drain(self._fleet, self._bring_up.router, clock=self._clock, ticked=self._ticked)
            await self._fleet.close()
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.wait([self._sampling])
        await self._bring_up.close()
