"""How fast a policy is simulated: the recorded hour of a conversation service, 19,366 requests.

Run with ``python -m benchmarks.simulate_speed``. A policy's time is that of one process from the
start of its run to its figures, the median of ``ROUNDS``; the oracle's and the tuned ones' hold all
their tries. Reading trace and curve is not in it.
"""

from __future__ import annotations

import time
from statistics import median

from benchmarks import policies
from benchmarks.report import Figure, write
from slm_operator.cli.simulate import Question, study

ROUNDS = 3
GOAL_SECONDS = 10.0
"""For an hour of the trace, per policy."""
MEASURED = ("pareto", "hpa", "hpa-tuned", "keda-queue", "wva", "aibrix", "static:1", "oracle")
CASE = next(case for case in policies.CASES if case.name == "conversation-1")


def measure() -> dict[str, Figure]:
    asked = policies.question(CASE, MEASURED)
    took = {name: median(_seconds(asked, name) for _ in range(ROUNDS)) for name in MEASURED}
    slowest = max(took.values())
    return {
        "requests": len(asked.trace.requests),
        "simulated_seconds": asked.trace.seconds,
        "rounds": ROUNDS,
        **{f"{name}_seconds": seconds for name, seconds in took.items()},
        **{
            f"{name}_simulated_seconds_per_second": asked.trace.seconds / seconds
            for name, seconds in took.items()
        },
        "slowest_seconds": slowest,
        "goal_met": slowest <= GOAL_SECONDS,
    }


def _seconds(asked: Question, name: str) -> float:
    over = study(asked)  # anew each time: it keeps the oracle that it has found
    started = time.perf_counter()
    over.run(name)
    return time.perf_counter() - started


def main() -> None:
    write("simulate_speed", measure(), command="python -m benchmarks.simulate_speed")


if __name__ == "__main__":
    main()
