"""What the API does with 10,000 odd objects: each is refused by a field's name, or reconciled.

Objects come from the CRD's schema and from mutations of the examples (`benchmarks.fuzz`). Each is
sent to a real API server as a dry-run create, so that all its checks run and nothing is stored;
what it accepts is read by the operator's models, decided on with and without a pack, and rendered,
and the children are tried out on the API server too. What is neither is a fault, and fails the run.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.fuzz.cases import cases
from benchmarks.fuzz.trial import DryRun, Result, run
from slm_dev.controlplane import ControlPlane, find_or_build
from slm_operator.api.models import GROUP, PLURAL

NAME = "api_fuzz"
CASES = 10_000
SEED = 20_260_101
CRD_FILE = Path(__file__).parents[1] / "crds" / f"{PLURAL}.{GROUP}.yaml"
FAULTS_SHOWN = 20


async def measure(count: int, seed: int) -> tuple[dict[str, report.Figure], list[Result]]:
    drawing = time.perf_counter()
    drawn = await asyncio.to_thread(cases, count, seed)
    drawing = time.perf_counter() - drawing
    binaries = await asyncio.to_thread(find_or_build, print)
    with ControlPlane(binaries) as control_plane:
        admin = control_plane.kubeconfig("admin")
        await asyncio.to_thread(install, str(binaries.kubectl), admin)
        kube = await DryRun.connect(admin)
        try:
            began = time.perf_counter()
            results = await run(kube, drawn, "default")
            seconds = time.perf_counter() - began
        finally:
            await kube.close()
    counted = Counter(result.outcome for result in results)
    return {
        "cases": len(results),
        "seed": seed,
        "refused": counted["refused"],
        "accepted": counted["accepted"],
        "accepted_and_said_in_a_condition": counted["said"],
        "faults": counted["fault"],
        "drawing_seconds": drawing,
        "seconds": seconds,
    }, results


def install(kubectl: str, kubeconfig: Path) -> None:
    command = [kubectl, f"--kubeconfig={kubeconfig}"]
    subprocess.run([*command, "apply", "--server-side", "-f", CRD_FILE], check=True)
    wait = ("wait", "--for=condition=Established", f"crd/{PLURAL}.{GROUP}")
    subprocess.run([*command, *wait], check=True)


def faults(results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result.outcome == "fault"]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    figures, results = asyncio.run(measure(count, SEED))
    for fault in faults(results)[:FAULTS_SHOWN]:
        print(f"{fault.message[:600]}\n  {fault.obj}"[:1500], file=sys.stderr)
    if count == CASES:
        report.write(NAME, figures, f"python -m benchmarks.{NAME}")
    else:
        print(figures)
    sys.exit(1 if figures["faults"] else 0)


if __name__ == "__main__":
    main()
