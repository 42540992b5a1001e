"""Policies compared on one trace: each with the layout that its packs run, and the yardstick."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from slm_operator.pareto.demand import DemandRules
from slm_operator.pareto.objective import Objective
from slm_operator.simulate.figures import Figures, ServiceLevel, figures
from slm_operator.simulate.hardware import Hardware
from slm_operator.simulate.oracle import OraclePolicy
from slm_operator.simulate.peers import PEERS
from slm_operator.simulate.peers.hpa import Hpa, HpaSettings
from slm_operator.simulate.product import ParetoPolicy, chosen_layout, pack_cost
from slm_operator.simulate.seen import Policy, Seen
from slm_operator.simulate.service import Layout, Outcome, Service, Terms
from slm_operator.simulate.trace import Trace, with_warm_up
from slm_worker.planning.workload import Workload

WARM_UP_SECONDS = 600.0
"""Longer than any policy's memory: the longest is a stabilisation of five minutes."""
DEFAULT_MAX_NUM_SEQS = 256
"""vLLM's own: what packs of a peer run."""
ORACLE_UTILIZATIONS = (1.15, 1.1, 1.05, 1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""How full the oracle tries to drive its packs: the first with which it keeps the SLO."""
HPA_BATCH_SHARES = (0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Targets that ``hpa-tuned`` tries, as somebody would who may run the trace again and again."""
TUNED = "hpa-tuned"
NAMES = ("pareto", "static:N", *PEERS, TUNED, "oracle")
_FORM = re.compile(r"(?P<name>[a-z0-9.-]+?)(?:\+static:(?P<packed>[0-9]+))?")
_STATIC = re.compile(r"static:(?P<replicas>[0-9]+)")


class PolicyError(Exception):
    """A policy that is not known, or cannot run here; the text names the remedy."""


@dataclass(frozen=True)
class Setting:
    """What all policies have in common. ``trace``: as it was recorded, already scaled."""

    trace: Trace
    hardware: Hardware
    terms: Terms = field(default_factory=Terms)
    wanted: ServiceLevel = field(default_factory=ServiceLevel)
    objective: Objective = field(default_factory=Objective)
    stabilization_seconds: float = 300.0
    seed: int = 1

    @property
    def load(self) -> Workload:
        return Workload(self.trace.mean_prompt_tokens, self.trace.mean_output_tokens)


@dataclass(frozen=True)
class Run:
    """One policy's result."""

    policy: str
    layout: Layout
    why: str
    """Why its packs run this layout."""
    outcome: Outcome
    figures: Figures


@dataclass(frozen=True)
class _Fixed:
    packs: int
    period_seconds: float = 15.0

    def wanted(self, seen: Seen) -> int:
        return self.packs


class Study:
    """Runs policies by name. Deterministic: every run draws from the seed anew."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._trace, self._from_seconds = with_warm_up(setting.trace, WARM_UP_SECONDS)
        self._knee = chosen_layout(setting.hardware, setting.load, setting.objective)
        probe = self._knee.chosen.probe
        self._pareto_layout = Layout(probe.replicas, probe.max_num_seqs)
        self._oracle: Run | None = None

    def check(self, name: str) -> None:
        """Raises PolicyError for a name that ``run`` would not take."""
        self._parsed(name)

    def run(self, name: str) -> Run:
        """Raises PolicyError."""
        kind, replicas = self._parsed(name)
        if kind == "oracle":
            return self.oracle()
        if kind == "pareto":
            cost = pack_cost(self._setting.hardware, self._pareto_layout, self._setting.load)
            policy = ParetoPolicy(cost, self._demand_rules())
            return self._run(name, self._pareto_layout, self._knee.sentence, policy)
        layout = self._peer_layout(replicas)
        if kind == "static":
            return self._static(name, layout)
        why = f"{replicas} replicas, as given" if replicas > 1 else "one engine"
        if kind == TUNED:
            return self._tuned(name, layout, why)
        return self._run(name, layout, why, PEERS[kind]())

    def oracle(self) -> Run:
        """The same layout as ``pareto``; the fullest packs that keep the SLO, or come nearest."""
        if self._oracle is None:
            tries = (self._oracle_run(utilization) for utilization in ORACLE_UTILIZATIONS)
            self._oracle = _first(tries, self._kept, self._attained)
        return self._oracle

    def _static(self, name: str, layout: Layout) -> Run:
        """The fewest packs that keep the SLO all the time, or come nearest: sized in hindsight."""
        terms = self._setting.terms
        counts = range(terms.min_packs, terms.max_packs + 1)
        why = f"{layout.replicas} of {layout.max_num_seqs}; the number of GPUs never changes"
        tries = (self._run(name, layout, why, _Fixed(n), first=n) for n in counts)
        return _first(tries, self._kept, self._attained)

    def _tuned(self, name: str, layout: Layout, why: str) -> Run:
        """The fullest Pods that keep the SLO, or come nearest: tuned in hindsight."""
        tries = (
            self._run(name, layout, f"{why}; {share:.0%} of the batch as target", Hpa(settings))
            for share in HPA_BATCH_SHARES
            for settings in (HpaSettings(batch_share=share),)
        )
        return _first(tries, self._kept, self._attained)

    def _oracle_run(self, utilization: float) -> Run:
        policy = self._oracle_policy(self._pareto_layout, utilization)
        return self._run("oracle", self._pareto_layout, self._knee.sentence, policy)

    def _oracle_policy(self, layout: Layout, utilization: float) -> OraclePolicy:
        setting = self._setting
        return OraclePolicy(
            self._trace.requests,
            pack_cost(setting.hardware, layout, setting.load),
            utilization,
            setting.terms.start_seconds,
            setting.stabilization_seconds,
        )

    def _run(
        self, name: str, layout: Layout, why: str, policy: Policy, first: int | None = None
    ) -> Run:
        setting = self._setting
        # Everybody begins with what the first minutes need.
        needed = first or self._oracle_policy(layout, 1.0).at(0.0)
        outcome = Service(
            self._trace,
            setting.hardware,
            layout,
            policy,
            setting.terms,
            min(max(needed, setting.terms.min_packs), setting.terms.max_packs),
            self._from_seconds,
            Random(setting.seed),
        ).run()
        return Run(name, layout, why, outcome, figures(outcome, setting.wanted))

    def _demand_rules(self) -> DemandRules:
        terms = self._setting.terms
        return DemandRules(
            terms.min_packs,
            terms.max_packs,
            terms.start_seconds,
            self._setting.stabilization_seconds,
        )

    def _parsed(self, name: str) -> tuple[str, int]:
        """The kind of a policy, and how many replicas a pack of it runs."""
        fixed = _STATIC.fullmatch(name)
        if fixed:
            return "static", self._measured(name, int(fixed["replicas"]))
        match = _FORM.fullmatch(name)
        known = match is not None and (
            match["name"] in (*PEERS, TUNED) or (name in ("pareto", "oracle"))
        )
        if match is None or not known:
            raise PolicyError(
                f"--policy {name}: unknown: use one of {', '.join(NAMES)}; a peer also as "
                "hpa+static:2, with 2 replicas on each GPU"
            )
        packed = match["packed"]
        return match["name"], 1 if packed is None else self._measured(name, int(packed))

    def _measured(self, name: str, replicas: int) -> int:
        counts = self._setting.hardware.curve.replica_counts
        if not 1 <= replicas <= max(counts):
            raise PolicyError(
                f"--policy {name}: {replicas} replicas on a GPU are not on the curve, which has "
                f"{', '.join(map(str, counts))}: use up to {max(counts)}"
            )
        return replicas

    def _peer_layout(self, replicas: int) -> Layout:
        """With vLLM's default batch, or the nearest that was measured."""
        batches = {b for _, b in self._setting.hardware.curve.layouts}
        nearest = min(batches, key=lambda b: (abs(b - DEFAULT_MAX_NUM_SEQS), b))
        return Layout(replicas, nearest)

    def _kept(self, run: Run) -> bool:
        return run.figures.slo_attainment >= self._setting.wanted.attained

    def _attained(self, run: Run) -> float:
        return run.figures.slo_attainment


def _first(runs: Iterator[Run], good: Callable[[Run], bool], value: Callable[[Run], float]) -> Run:
    """The first good one; without one, that of the greatest value."""
    seen = []
    for run in runs:
        if good(run):
            return run
        seen.append(run)
    return max(seen, key=value)
