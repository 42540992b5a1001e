"""Scaling policies compared on recorded and made traffic (SIMULATED): the product's and its peers'.

Run with ``python -m benchmarks.policies``; it takes some twenty minutes on two cores. It writes
``results/policies.json``, the tables in ``docs/simulation.md`` and the pictures beside it. The
traffic: the recorded hour of a conversation service (``data/README.md``) at several rates, and an
hour of bursts, made from a seed: long prompts, short answers, 0 to 600 requests a minute.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks import policies_page, report
from benchmarks.gpu.models import MODELS
from slm_operator.cli import curves
from slm_operator.cli.simulate import Answer, Question, answers, document, study
from slm_operator.simulate.figures import ServiceLevel
from slm_operator.simulate.service import Terms
from slm_operator.simulate.trace import Request, Trace, parse, scaled
from slm_worker.planning.measured import STUDY_GPU
from slm_worker.planning.workload import Workload

NAME = "policies"
HERE = Path(__file__).parent
CONVERSATION = HERE / "data" / "azure-conversation.csv"
MEASURED = HERE.parent / "worker/slm_worker/planning/data/h100-sxm-64gb.csv"
POLICIES = (
    *("pareto", "hpa", "hpa-tuned", "keda-queue", "wva", "aibrix", "aibrix-0.4"),
    *("hpa+static:2", "hpa-tuned+static:2", "keda-queue+static:2", "wva+static:2"),
    *("aibrix+static:2", "aibrix-0.4+static:2", "static:1", "static:2"),
)
SEED = 1
BURST_RATES = (0, 0, 30, 60, 120, 300, 600)
"""Requests a minute, each for one to four minutes."""


@dataclass(frozen=True)
class Case:
    """One table of the page."""

    name: str
    title: str
    traffic: str
    """``conversation`` or ``bursts``."""
    rate_scale: float
    model: str
    curve: str
    """``measured``, ``measured, lengths`` or ``predicted``."""
    gpu: str = STUDY_GPU


CASES = (
    *(
        Case(
            f"conversation-{scale:g}",
            f"Conversation × {scale:g}, measured curve of OPT-1.3B",
            "conversation",
            scale,
            "opt-1.3b",
            "measured",
        )
        for scale in (0.2, 1, 5, 10, 20)
    ),
    Case(
        "conversation-lengths",
        "Conversation × 5, OPT-1.3B with what its long prompts and contexts cost",
        "conversation",
        5,
        "opt-1.3b",
        "measured, lengths",
    ),
    Case(
        "conversation-llama",
        "Conversation × 10, Llama-3.2-1B on an H100 80 GB, predicted",
        "conversation",
        10,
        "llama-3.2-1b",
        "predicted",
        "h100-sxm-80gb",
    ),
    Case(
        "bursts",
        "Bursts of long prompts × 5, OPT-1.3B with what they cost",
        "bursts",
        5,
        "opt-1.3b",
        "measured, lengths",
    ),
)


def bursts(rng: Random) -> Trace:
    """An hour of minutes that are quiet or full, with prompts of some 2,400 tokens and answers of
    some 28, as completion of code has them."""
    found: list[Request] = []
    minute = 0
    while minute < 60:
        rate, until = rng.choice(BURST_RATES), min(60, minute + rng.randint(1, 4))
        for start in range(minute, until):
            found += [
                Request(
                    60 * start + 60 * rng.random(),
                    int(min(8000, max(100, rng.lognormvariate(7.6, 0.6)))),
                    max(1, int(rng.expovariate(1 / 28))),
                )
                for _ in range(rate)
            ]
        minute = until
    return Trace(tuple(sorted(found, key=lambda r: r.at_seconds)))


def question(case: Case, policies: Sequence[str], seed: int = SEED) -> Question:
    """``seed``: of made traffic."""
    conversation = case.traffic == "conversation"
    trace = parse(CONVERSATION.read_text()) if conversation else bursts(Random(seed))
    trace = scaled(trace, case.rate_scale, Random(SEED))
    return Question(
        trace_path=case.traffic,
        trace=trace,
        source=_source(case, trace),
        rate_scale=case.rate_scale,
        policies=policies,
        terms=Terms(),
        wanted=ServiceLevel(),
        seed=SEED,
    )


def answer(case: Case, policies: Sequence[str] = POLICIES) -> Answer:
    asked = question(case, policies)
    over = study(asked)
    return Answer(asked, tuple(answers(asked, over)), over.oracle())


def _source(case: Case, trace: Trace) -> curves.Source:
    config = json.dumps(dict(MODELS[case.model]))
    if case.curve == "predicted":
        load = Workload(trace.mean_prompt_tokens, trace.mean_output_tokens)
        return curves.predicted(case.model, config, case.gpu, load)
    found = curves.measured(MEASURED.name, MEASURED.read_text(), case.model, case.gpu)
    if case.curve == "measured":
        return found
    return curves.with_lengths(found, case.model, config, case.gpu)


def _computed(case: Case) -> tuple[dict[str, Any], str]:
    """For another process: the document, and the picture of packs over time."""
    found = answer(case)
    return document(found), policies_page.packs_picture(found)


def main() -> None:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        # The largest first, so that no process is left alone with it at the end.
        order = sorted(CASES, key=lambda case: -case.rate_scale)
        results = dict(zip((c.name for c in order), pool.map(_computed, order), strict=True))
    documents = {case.name: results[case.name][0] for case in CASES}
    titles = {case.name: case.title for case in CASES}
    policies_page.write(titles, documents, {name: shown for name, (_, shown) in results.items()})
    figures: dict[str, report.Figure] = {"simulated": True}
    for name, found in documents.items():
        figures |= dict(policies_page.summary(name, found))
    report.write(NAME, figures, f"python -m benchmarks.{NAME}", {"cases": documents})


if __name__ == "__main__":
    main()
