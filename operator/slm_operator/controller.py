"""One service, one pass: observe, decide on the snapshot, write the status, apply.

The status is written before anything is done, so that a measured point is never lost to a crash
between the two: what was not done is decided again from the same points.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from slm_operator import logs
from slm_operator.api.models import API_VERSION, KIND, SLMService, SLMServiceSpec
from slm_operator.api.status import SLMServiceStatus
from slm_operator.cluster.activator import ActivatorClient
from slm_operator.cluster.agents import AgentError, Agents
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.events import Events
from slm_operator.cluster.kube import Kube, Object, get_or_none
from slm_operator.cluster.owned import FormerServiceError, Owned
from slm_operator.cluster.profiles import Profiles
from slm_operator.cluster.strangers import without_strangers
from slm_operator.decide.calibrate import profile_to_read
from slm_operator.decide.companions import companions
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.demand import SAMPLE_SECONDS
from slm_operator.decide.limits import limits
from slm_operator.decide.pods import NO_PLACE_AFTER
from slm_operator.decide.rollout import follow
from slm_operator.decide.snapshot import Memory, Pack, Snapshot, StoredProfile, Trouble
from slm_operator.gate import waiting_for_others
from slm_operator.keys import Keys, Tokens
from slm_operator.metrics import Metrics
from slm_operator.pareto.window import WindowRules
from slm_operator.power_ledger import PowerLedger
from slm_operator.render import activation, children

if TYPE_CHECKING:
    from slm_operator.tracing import Tracing

log = logging.getLogger(__name__)

BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
FORMER_SECONDS = 3.0
"""Between two looks for what a former service left: that it ends takes its time, and is no fault
that grows."""
UNREADABLE_RETRY_SECONDS = 60.0
MOVED_ON_SECONDS = 1.0
"""Until the watch, which shows an older spec than is stored, is looked at again."""


@dataclass(frozen=True)
class Settings:
    """How this operator was started."""

    worker_image: str
    keys: Keys
    """From which each service's agent token is derived, so that no Secret has to be read."""
    rules: WindowRules = field(default_factory=WindowRules)
    demand_period_seconds: float = SAMPLE_SECONDS
    """Between two samples of the demand."""
    cluster_power_budget_watts: int | None = None
    """Most that the GPUs of all services may draw; None: no limit."""


@dataclass
class _Held:
    """What is kept of one service between passes; a restart rebuilds it from the status."""

    memory: Memory = field(default_factory=Memory)
    status: str | None = None
    """Last status written here, in JSON: its objects would be most of what an operator with many
    services keeps. The watch may still show an older one."""
    template: tuple[int, str] | None = None
    """Hash of what the packs run, which only another generation changes: making it is a tenth of a
    pass."""
    refused: Trouble | None = None
    profile: StoredProfile | None = None
    """What was last found for this service to begin its search with."""
    strangers: set[str] = field(default_factory=set)
    """UIDs of Pods that have the labels of its packs and are none, as the log has told."""
    failures: int = 0
    refused_since_seconds: float | None = None
    """When the first of an unbroken series of passes was refused, by the operator's clock."""


class Controller:
    """Reconciles services. One instance for all; passes of one service must not overlap."""

    def __init__(
        self,
        kube: Kube,
        agents: Agents,
        settings: Settings,
        metrics: Metrics,
        now: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        activator: ActivatorClient | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._kube = kube
        self.owned = Owned(kube)
        self._activator = activator
        self._profiles = Profiles(kube)
        self._events = Events(kube, now, clock)
        self._agents = agents
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._now = now
        self._clock = clock
        budget = settings.cluster_power_budget_watts
        self._power = None if budget is None else PowerLedger(budget, clock)
        if self._power is not None:
            self._power.expose(metrics)
        self._held: dict[str, _Held] = {}

    async def reconcile(self, obj: Object, packs: Iterable[Pack]) -> float:
        """One pass over the service ``obj`` and its packs. Returns how many seconds may pass until
        the next one. A refusal is said in the status, an outage of the API server in the log
        alone, since the packs serve on; both are tried again with backoff. So is an object that
        cannot be read, slowly: until it changes there is nothing to do about it."""
        held = self._held.get(obj["metadata"]["uid"]) or _Held()
        # What was written here is the newest, and a status is longer than all the rest.
        known = {} if held.status is None else {"status": None}
        try:
            service = SLMService.from_object({**obj, **known})
        except ValidationError as error:
            faults = _faults(error)
            self._failed("UnreadableObject", faults)
            log.error(
                "%s/%s cannot be read, so it is left as it is: %s; correct the object",
                obj["metadata"]["namespace"],
                obj["metadata"]["name"],
                faults,
            )
            return UNREADABLE_RETRY_SECONDS
        self._held[service.uid] = held
        logs.about(service)
        started = time.perf_counter()
        try:
            seen = without_strangers(service, packs, held.strangers)
            decision = await self._pass(service, held, seen)
        except KubeError as error:
            held.failures += 1
            delay = BACKOFF_SECONDS[min(held.failures, len(BACKOFF_SECONDS)) - 1]
            if isinstance(error, FormerServiceError):
                delay = FORMER_SECONDS
            delay = max(delay, error.retry_after_seconds)
            if error.is_refusal:
                held.refused = Trouble(error.reason, error.message)
                held.refused_since_seconds = held.refused_since_seconds or self._clock()
            self._failed(error.reason, error.message)
            log.warning("%s/%s: %s; again in %g s", service.namespace, service.name, error, delay)
            return delay
        finally:
            self._metrics.pass_seconds.observe(time.perf_counter() - started)
        held.failures, held.refused_since_seconds = 0, None
        return decision.poll_seconds

    def remembers(self, uid: str) -> bool:
        """Whether a status of the service is held here, which is newer than any that is shown."""
        return uid in self._held and self._held[uid].status is not None

    def forget(self, uid: str) -> None:
        """What was written of a service is no longer there, so its next pass believes what it is
        shown, as after a restart."""
        self._held.pop(uid, None)
        self.owned.forget(uid)

    async def finalize(self, obj: Object, packs: Iterable[Pack]) -> bool:
        """Removes the children of a service that is being deleted, each as its grace allows; waits
        for none of them. False when there was nothing to remove any more.

        Another object of the name of one stays. Raises KubeError.
        """
        namespace, uid = obj["metadata"]["namespace"], obj["metadata"]["uid"]
        there = [p for p in packs if p.belongs_to(uid) and not p.terminating]
        await self._delete(namespace, there)
        known = await self.owned.remove(uid, namespace)
        await self.let_go(obj)
        return known or bool(there)

    async def _delete(self, namespace: str, packs: Iterable[Pack]) -> None:
        for pack in packs:
            await self._kube.delete("v1", "Pod", pack.name, namespace, uid=pack.uid)

    async def let_go(self, obj: Object, *, orphaned: bool = False) -> None:
        """Forgets a service that has ended, whatever became of its objects. ``orphaned``: they
        stay, except what leads to the activator."""
        name, namespace, uid = (obj["metadata"][key] for key in ("name", "namespace", "uid"))
        if orphaned:
            await self._lead_away(uid, namespace, name)
        self.forget(uid)
        if self._power is not None:
            self._power.forget(uid)
        self._metrics.forget(namespace, name)
        if self._activator is not None:
            # Slices that Kubernetes has already taken from the service stay, and lead there.
            await self._activator.forget(uid, keeps_port=orphaned)

    async def _lead_away(self, uid: str, namespace: str, name: str) -> None:
        try:
            await self.owned.remove(uid, namespace, only=activation.KIND)
        except KubeError as error:
            log.warning("%s/%s: clients are still led to the activator: %s", namespace, name, error)

    def _failed(self, reason: str, message: str) -> None:
        self._metrics.failed_passes.labels(reason=reason).inc()
        if self._tracing is not None:
            self._tracing.failed(reason, message)

    async def _pass(self, service: SLMService, held: _Held, seen: Sequence[Pack]) -> Decision:
        if held.status is not None:
            status = SLMServiceStatus.model_validate_json(held.status)
            service = service.model_copy(update={"status": status})
        tokens = self._settings.keys.tokens(service.uid)
        image = self._settings.worker_image
        if held.template is None or held.template[0] != service.generation:
            held.template = service.generation, children.template_hash(service, image)
        template = held.template[1]
        snapshot = await self._observe(service, held, seen, tokens)
        snapshot = await self._with_profile(snapshot, held, template)
        decision = decide(
            snapshot,
            self._settings.rules,
            template,
            held.refused,
            self._settings.demand_period_seconds,
        )
        creating = bool(decision.pods.create or decision.pods.canary)
        if creating and not await self._is_as_stored(service):
            return replace(decision, poll_seconds=MOVED_ON_SECONDS)
        await self._keep_profile(service, decision)
        await self._write_status(service, held, decision)
        allowed = limits(service, decision.status.power)
        self._metrics.show(service.namespace, service.name, decision.status, allowed)
        if self._tracing is not None:
            self._tracing.decided(service, decision)
        held.memory = decision.memory
        since = held.refused_since_seconds
        lasts = since is not None and self._clock() - since > NO_PLACE_AFTER.total_seconds()
        wanted = companions(snapshot, decision, tokens.current, refused=lasts)
        # Packs that are created would wait in silence for a Secret that somebody deleted.
        doubted = creating or any(p.doubts_children for p in snapshot.packs)
        # Garbage collection would remove those of a former service too; their names are free then.
        former = (p for p in seen if not p.belongs_to(service.uid) and not p.terminating)
        try:
            await self._delete(service.namespace, former)
            waits = await self.owned.apply(service, wanted, also_unchanged=doubted)
            # Clients may be led to a pack until all is applied.
            await self._delete(service.namespace, () if waits else decision.pods.delete)
            for ordinal in decision.pods.create:
                pod = children.pack_pod(decision.service, ordinal, image)
                await self.owned.make(service, pod)
            for ordinal in decision.pods.canary:
                await self.owned.make(service, children.pack_pod(service, ordinal, image))
            if waits is not None:
                raise waits
        except KubeError as error:
            # A quota that holds one pack back does not keep the others from their plans.
            if error.is_refusal:
                await self._send_plans(decision, tokens)
            raise
        held.refused = await self._send_plans(decision, tokens)
        return decision

    async def _observe(
        self, service: SLMService, held: _Held, seen: Sequence[Pack], tokens: Tokens
    ) -> Snapshot:
        """Packs of a former service of that name hold their names until they have ended."""
        own = [p for p in seen if p.belongs_to(service.uid)]
        former = [p for p in seen if not p.belongs_to(service.uid)]
        packs = [
            *await asyncio.gather(*(self._with_agent(pack, tokens) for pack in own)),
            *(replace(pack, terminating=True, ready=False) for pack in former),
        ]
        snapshot = Snapshot(
            service=service,
            now=self._now(),
            packs=tuple(sorted(packs, key=lambda p: p.ordinal)),
            memory=held.memory,
            worker_image=self._settings.worker_image,
            power=self._power.share(service) if self._power is not None else None,
            seconds=self._clock(),
        )
        if self._activator is None:
            return snapshot
        with waiting_for_others():
            found = await self._activator.activation(service, snapshot.packs)
        return replace(snapshot, activation=found)

    async def _with_agent(self, pack: Pack, tokens: Tokens) -> Pack:
        if not pack.address or pack.container is not None:
            return pack
        try:
            return replace(pack, agent=await self._agents.state(pack.address, tokens))
        except AgentError as error:
            return replace(pack, silence=Trouble(error.reason, error.message))

    async def _with_profile(self, snapshot: Snapshot, held: _Held, template: str) -> Snapshot:
        """Read once for each search that begins."""
        key = profile_to_read(follow(snapshot, template).measured(snapshot))
        if not key:
            held.profile = None
        elif held.profile is None or held.profile.key != key:
            held.profile = await self._profiles.read(snapshot.service.namespace, key)
        return replace(snapshot, profile=held.profile)

    async def _is_as_stored(self, service: SLMService) -> bool:
        """A pack takes a whole GPU, so it is not made for a spec that is no more: the watch shows
        one for a while after a change, a deletion, or the restoring of an older copy."""
        obj = await get_or_none(self._kube, API_VERSION, KIND, service.name, service.namespace)
        if obj is None:
            return False
        stored = obj["metadata"]
        return (
            stored["uid"] == service.uid
            and stored["generation"] == service.generation
            and "deletionTimestamp" not in stored
        )

    async def _keep_profile(self, service: SLMService, decision: Decision) -> None:
        """Before the status says that the search is over: an operator that is killed in between
        measures the last window again and writes the profile then."""
        if decision.profile is None:
            return
        try:
            await self._profiles.keep(service.namespace, decision.profile, self._now())
        except KubeError as error:
            # Only the next service misses it.
            log.warning(
                "%s/%s: what it measured is not kept for others: %s",
                service.namespace,
                service.name,
                error,
            )

    async def _write_status(self, service: SLMService, held: _Held, decision: Decision) -> None:
        if decision.status == service.status:
            held.status = held.status or decision.status.to_json()
            return
        # By name: a UID is no condition of a status that is written (kube-apiserver 1.34).
        await self._kube.apply(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "metadata": {"name": service.name, "namespace": service.namespace},
                "status": decision.status.to_object(),
            },
            subresource="status",
            force=True,
        )
        held.status = decision.status.to_json()
        for event in decision.events:
            at = datetime.fromisoformat(self._now()).timestamp()
            self._metrics.decided(service.namespace, service.name, event.reason, at)
            await self._events.tell(service, event)

    async def _send_plans(self, decision: Decision, tokens: Tokens) -> Trouble | None:
        """The last refusal, if there is one."""
        refused = None
        for pack, plan in decision.plans:
            try:
                await self._agents.put_plan(pack.address, tokens, plan)
            except AgentError as error:
                # A stale generation means the agent moved on since it was read; the next pass
                # reads it again.
                if error.reason != "StaleGeneration":
                    refused = Trouble(error.reason, f"{pack.name}: {error.message}")
        return refused


def _faults(error: ValidationError) -> str:
    """Each field and its fault. Not its value, which may be a secret in an environment."""
    part = "spec" if error.title == SLMServiceSpec.__name__ else "status"
    return "; ".join(
        f"{'.'.join(map(str, (part, *fault['loc'])))}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    )
