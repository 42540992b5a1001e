"""``slmctl simulate``: scaling policies compared on a recorded trace, as text and JSON. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from slm_operator.cli.choose import seconds
from slm_operator.cli.curves import Source
from slm_operator.simulate.figures import Figures, Percentiles, ServiceLevel
from slm_operator.simulate.service import Terms
from slm_operator.simulate.study import Run, Setting, Study
from slm_operator.simulate.trace import Trace

LONGER = 1.25
"""A trace whose requests are longer than the curve's by so much costs more than the curve says."""
_RANGE = re.compile(r"([0-9]+)(?::([0-9]+))?")
MAX_PACKS = 64
NOTE = (
    "SIMULATED: packs, router and clients are simulated; so are the GPUs, by the curve above. "
    "Every policy begins in full swing, ten minutes before the trace, and meets the same requests."
)


class SimulateError(Exception):
    """An option that cannot be used; the text names it, its value and the remedy."""


@dataclass(frozen=True)
class Question:
    """What was asked. ``trace`` is scaled already."""

    trace_path: str
    trace: Trace
    source: Source
    rate_scale: float
    policies: Sequence[str]
    terms: Terms
    wanted: ServiceLevel
    seed: int


@dataclass(frozen=True)
class Answer:
    question: Question
    runs: tuple[Run, ...]
    oracle: Run

    @property
    def shown(self) -> tuple[Run, ...]:
        """What was asked for, and the yardstick if it is not among it."""
        return self.runs if self.oracle in self.runs else (*self.runs, self.oracle)


def terms(gpus: str, start_seconds: float) -> Terms:
    """``1:8`` or ``3``. Raises SimulateError."""
    match = _RANGE.fullmatch(gpus)
    if match is None:
        raise SimulateError(f"--gpus {gpus}: no range: write the fewest and the most, such as 1:8")
    fewest, most = int(match[1]), int(match[2] or match[1])
    if not 1 <= fewest <= most <= MAX_PACKS:
        raise SimulateError(
            f"--gpus {gpus}: from {fewest} to {most} is no range within 1 to {MAX_PACKS}: write "
            "the fewest and the most, such as 1:8"
        )
    return Terms(min_packs=fewest, max_packs=most, start_seconds=start_seconds)


def service_level(ttft: str, itl: str) -> ServiceLevel:
    """Raises SimulateError."""
    found = []
    for option, value in (("--slo-ttft", ttft), ("--slo-itl", itl)):
        try:
            found.append(seconds(value))
        except ValueError as error:
            raise SimulateError(f"{option}: {error}") from None
    return ServiceLevel(*found)


def study(question: Question) -> Study:
    return Study(
        Setting(
            trace=question.trace,
            hardware=question.source.hardware,
            terms=question.terms,
            wanted=question.wanted,
            seed=question.seed,
        )
    )


def answers(question: Question, over: Study) -> Iterator[Run]:
    """One run after another, each policy once. Raises PolicyError before the first."""
    names = list(dict.fromkeys(question.policies))
    for name in names:
        over.check(name)
    for name in names:
        yield over.run(name)


def document(answer: Answer) -> dict[str, Any]:
    """For scripts; figures in the units that their names give."""
    question, oracle = answer.question, answer.oracle
    return {
        "simulated": True,
        "trace": question.trace_path,
        "rateScale": question.rate_scale,
        "requests": len(question.trace.requests),
        "meanPromptTokens": round(question.trace.mean_prompt_tokens, 1),
        "meanOutputTokens": round(question.trace.mean_output_tokens, 1),
        "model": question.source.model,
        "basis": question.source.basis,
        "warnings": warnings(question),
        "gpus": {"min": question.terms.min_packs, "max": question.terms.max_packs},
        "startSeconds": question.terms.start_seconds,
        "slo": {
            "ttftSeconds": question.wanted.ttft_seconds,
            "itlSeconds": question.wanted.itl_seconds,
        },
        "policies": [_entry(run, oracle) for run in answer.runs],
        "oracle": _entry(oracle, oracle),
    }


def warnings(question: Question) -> list[str]:
    """What the reader has to know before believing the figures."""
    found = []
    hardware, trace = question.source.hardware, question.trace
    measured = hardware.measured_at
    if not hardware.costs.context_seconds:
        pairs = (
            ("prompts", trace.mean_prompt_tokens, measured.prompt_tokens),
            ("answers", trace.mean_output_tokens, measured.output_tokens),
        )
        for what, here, there in pairs:
            if here > LONGER * there:
                found.append(
                    f"the trace's {what} have {here:,.0f} tokens on average, the curve's "
                    f"{there:,.0f}, and a curve knows nothing of other lengths: give "
                    "--model-config to charge them"
                )
    return found


def text(answer: Answer) -> RenderableType:
    """What was simulated, a row for each policy, and what the columns mean."""
    question = answer.question
    trace, wanted = question.trace, question.wanted
    head = Table.grid(padding=(0, 2))
    hours = trace.seconds / 3600
    for name, value in (
        (
            "Trace",
            f"{question.trace_path} x {question.rate_scale:g}: {len(trace.requests):,} requests in "
            f"{hours:.2f} h, {trace.mean_prompt_tokens:,.0f} prompt and "
            f"{trace.mean_output_tokens:,.0f} output tokens on average",
        ),
        ("Curve", f"{question.source.model}. {question.source.basis}"),
        (
            "GPUs",
            f"{question.terms.min_packs} to {question.terms.max_packs}, ready "
            f"{question.terms.start_seconds:g} s after they are asked for",
        ),
        (
            "SLO",
            f"TTFT up to {wanted.ttft_seconds:g} s and a mean ITL up to "
            f"{wanted.itl_seconds * 1000:g} ms, for each request",
        ),
    ):
        head.add_row(Text(name, style="bold"), value)
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("POLICY", no_wrap=True)
    for name in (*("ON A GPU", "IN SLO", "GPU-H", "OVER", "MJ", "OVER", "TTFT", "LOST", "CHG/H"),):
        table.add_column(name, justify="right", no_wrap=True)
    for run in answer.shown:
        table.add_row(
            run.policy,
            f"{run.layout.replicas} x {run.layout.max_num_seqs}",
            *_cells(run.figures, answer.oracle.figures),
            style="dim" if run.figures.slo_attainment < wanted.attained else "",
        )
    legend = Text(
        "OVER: above the oracle, which knows the curve and all that will come. TTFT: 95th "
        "percentile. LOST: requests. CHG/H: packs added and removed an hour. Dim: below "
        f"{wanted.attained:.0%} in the SLO, so GPU-hours and joules bought less."
    )
    parts: list[RenderableType] = [head, Text(), table, Text(), legend]
    parts += [Text(f"Warning: {one}", style="yellow") for one in warnings(question)]
    return Group(*parts, Text(NOTE, style="yellow"))


def percent_over(value: float, yardstick: float) -> str:
    """As tables show it."""
    share = _over(value, yardstick)
    return "-" if share is None else f"{share:+.1%}"


def _over(value: float, yardstick: float) -> float | None:
    """Share above the yardstick."""
    return value / yardstick - 1 if yardstick else None


def _entry(run: Run, oracle: Run) -> dict[str, Any]:
    one = run.figures
    return {
        "policy": run.policy,
        "layout": {"replicas": run.layout.replicas, "maxNumSeqs": run.layout.max_num_seqs},
        "why": run.why,
        "joules": round(one.joules, 1),
        "joulesPerOutputToken": one.joules_per_output_token,
        "gpuHours": one.gpu_hours,
        "sloAttainment": one.slo_attainment,
        "requests": one.requests,
        "lost": one.lost,
        "packChangesPerHour": one.pack_changes_per_hour,
        "replicaChangesPerHour": one.replica_changes_per_hour,
        "ttftSeconds": _percentiles(one.ttft_seconds),
        "itlSeconds": _percentiles(one.itl_seconds),
        "regretToOracle": {
            "joules": _over(one.joules, oracle.figures.joules),
            "gpuHours": _over(one.gpu_hours, oracle.figures.gpu_hours),
        },
    }


def _percentiles(values: Percentiles | None) -> dict[str, float] | None:
    return None if values is None else dict(zip(("p50", "p95", "p99"), values, strict=True))


def _cells(one: Figures, oracle: Figures) -> tuple[str, ...]:
    return (
        f"{one.slo_attainment:.2%}",
        f"{one.gpu_hours:.2f}",
        percent_over(one.gpu_hours, oracle.gpu_hours),
        f"{one.joules / 1e6:.3f}",
        percent_over(one.joules, oracle.joules),
        "-" if one.ttft_seconds is None else f"{one.ttft_seconds[1]:.2f} s",
        f"{one.lost:,}",
        f"{one.pack_changes_per_hour:.1f}",
    )
