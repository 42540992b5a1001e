"""A service whose users' requests fill its pack as much as they do, and nothing else does."""

from __future__ import annotations

from datetime import datetime, timedelta

from builders import pack, pack_state
from slm_operator.api.models import SLMService
from slm_operator.decide.decision import Decision, decide
from slm_operator.decide.snapshot import Memory, Snapshot
from slm_operator.pareto.points import Probe
from slm_operator.pareto.window import WindowRules
from slm_worker.wire import Counters, Histogram, LoadState, PackState, Plan, RouterState

RULES = WindowRules()
"""The operator's own."""
H100 = {1: (7886.7, 335.1), 2: (10641.9, 443.1), 3: (10660.0, 457.0), 4: (10678.7, 471.0)}
"""Output tokens/s and W of full replicas: the published measurements with 256 sequences each."""
RISING = {1: (4000.0, 250.0), 2: (7900.0, 335.0), 3: (10600.0, 420.0), 4: (10680.0, 470.0)}
"""A smaller model's, with its knee at three."""
IDLE_WATTS = 130.0
BEGIN = datetime(2026, 1, 1)


class LiveWorld:
    """One pack that serves ``rate`` requests a second as its curve allows, second by
    second, while the operator looks as often as it wants to."""

    def __init__(
        self,
        wanted: SLMService,
        rate: float = 0.0,
        sequences: int = 256,
        curve: dict[int, tuple[float, float]] = H100,
    ) -> None:
        self.service = wanted
        self.curve = curve
        self.rate = rate
        """Requests that come each second."""
        self.prompt_tokens, self.output_tokens = 111, 292
        self.sequences = sequences
        self.memory = Memory()
        self.plan: Plan | None = None
        self.seconds = 0
        self.in_flight = 0.0
        self.just_done = 0.0
        self.arrived = self.completed = self.tokens = self.millijoules = 0.0
        self.begun = self.prompts = 0.0
        self.saturated = self.throttled = self.capped = 0.0
        self.hot = self.capping = False
        self.starts = 0
        self.settled_since = 0
        self.look_at = 1.0
        self.longest_wait = 0.0
        """Seconds that a request had to wait for a place in a batch, at worst."""
        self.ran: list[Probe] = []
        """What ran, one entry a change."""
        self.own_load = False
        self.events: list[str] = []

    @property
    def rotation(self) -> int:
        return self.plan.rotation if self.plan else 0

    def second(self) -> None:
        """A second of serving."""
        self.seconds += 1
        load = self.plan.load if self.plan else None
        self.in_flight += self.rate
        self.arrived += self.rate
        if self.plan is None:
            return
        slots = self.rotation * self.sequences
        tokens, watts = self._served(slots if load else min(slots, self.in_flight))
        output = load.output_tokens if load else self.output_tokens
        done = tokens / output if load else min(self.in_flight, tokens / output)
        self.begun += done
        self.prompts += done * (load.prompt_tokens if load else self.prompt_tokens)
        self.completed += done
        self.in_flight -= 0 if load else done
        self.just_done = 0 if load else done
        self.tokens += done * output
        self.millijoules += 1000 * watts
        self.saturated += bool(load) or self.in_flight > slots
        self.throttled += self.hot
        self.capped += self.capping
        if not load:
            wait = max(0.0, self.in_flight - slots) * output / tokens if tokens else 0.0
            self.longest_wait = max(self.longest_wait, wait)

    def _served(self, running: float) -> tuple[float, float]:
        """Output tokens/s and W with so many sequences: the router fills one replica after the
        other."""
        full, part = divmod(running / self.sequences, 1)
        below = self.curve.get(int(full), (0.0, IDLE_WATTS))
        above = self.curve.get(int(full) + 1, below)
        return (
            below[0] + part * (above[0] - below[0]),
            below[1] + part * (above[1] - below[1]),
        )

    def state(self) -> PackState:
        counters = Counters(
            sampled_at_seconds=self.seconds,
            output_tokens=int(self.tokens),
            prompt_tokens=int(self.prompts),
            requests_completed=int(self.completed),
            energy_millijoules=int(self.millijoules),
            saturated_seconds=self.saturated,
            throttled_seconds=self.throttled,
            power_capped_seconds=self.capped,
            replica_starts=self.starts,
            ttft=Histogram(count=int(self.begun)),
        )
        state = pack_state(
            self.plan,
            clock_seconds=float(self.seconds),
            counters=counters,
            settled_since_seconds=float(self.settled_since),
            router=RouterState(requests=int(self.arrived)),
            load=LoadState(in_flight=300 if self.plan and self.plan.load else 0),
        )
        slots = self.sequences
        # The operator looks between two completions, not after all of a second's.
        left, replicas = int(self.in_flight + self.just_done / 2), []
        for replica in state.replicas:
            given = min(left, slots) if replica.in_rotation else 0
            left -= given
            replicas.append(replica.model_copy(update={"in_flight": given, "running": given}))
        return state.model_copy(update={"replicas": tuple(replicas), "router_queue": left})

    def look(self) -> Decision:
        """The operator's pass, and the pack follows its plan."""
        now = f"{(BEGIN + timedelta(seconds=self.seconds)).isoformat()}Z"
        decision = decide(
            Snapshot(self.service, now, (pack(self.state()),), self.memory), RULES, "t"
        )
        self.service = self.service.model_copy(update={"status": decision.status})
        self.memory = decision.memory
        self.events += [e.reason for e in decision.events]
        for _, plan in decision.plans:
            if self.plan is None or plan.layout != self.plan.layout:
                self.starts += plan.layout.replicas
            self.plan, self.settled_since = plan, self.seconds
            self.own_load = self.own_load or plan.load is not None
            self.ran.append(Probe(plan.layout.replicas, plan.rotation, plan.layout.max_num_seqs))
        self.look_at = self.seconds + decision.poll_seconds
        return decision

    def run(self, seconds: float) -> Decision:
        """So long, and one look more."""
        for _ in range(round(seconds)):
            self.second()
            if self.seconds >= self.look_at:
                self.look()
        return self.look()
