"""docs/mistakes.md shows what a real API server and the operator say to common mistakes.

``make mistakes`` writes its tables anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from model_folder import SMALL_MODEL, write_model
from operator_rig import Service, fixed, searching
from slm_dev.controlplane import find_or_build
from slm_dev.reference.markdown import code, table
from slm_dev.stack import Stack
from slm_operator.api.models import API_VERSION, KIND
from slm_operator.cluster.profiles import CONFIG_MAP

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGE = Path(__file__).resolve().parents[2] / "docs/mistakes.md"
WRITE = os.environ.get("SLM_WRITE_MISTAKES") == "1"
FILE = "slmservice.yaml"
NAME = "chat"
MODEL = {"model": {"uri": "hf://facebook/opt-1.3b"}}
HUGE = SMALL_MODEL | {"num_hidden_layers": 96, "hidden_size": 12288, "ffn_dim": 49152}
HUGE_FOLDER = "/models/huge"
"""What the page calls the folder that the test makes."""


@dataclass(frozen=True)
class Refused:
    """What kubectl apply refuses."""

    mistake: str
    wrong: dict[str, Any]
    """What stands in the spec beside the model, or instead of it."""
    remedy: str
    name: str = NAME


@dataclass(frozen=True)
class Later:
    """What is accepted and cannot work."""

    mistake: str
    wrong: dict[str, Any]
    """What stands in a spec that would serve otherwise."""
    seen: tuple[str, str, str]
    """Type, status and reason of the condition that tells."""
    remedy: str
    base: dict[str, Any] | None = None
    """Instead of a fixed replica."""
    measured: bool = False
    """Whether the message has measured figures, which are others in each run."""


REFUSED = (
    Refused(
        "A field that is not there, here that of a Deployment",
        {"replicas": 2},
        "`kubectl explain slm.spec` or [the reference](reference/slmservice.md#spec) for the "
        "names: `packs` counts GPUs, `replicasPerPack` replicas on each",
    ),
    Refused(
        "A value in the wrong place", {"model": "hf://facebook/opt-1.3b"}, "`model: {uri: ...}`"
    ),
    Refused(
        "A model without its scheme",
        {"model": {"uri": "facebook/opt-1.3b"}},
        "`hf://facebook/opt-1.3b`",
    ),
    Refused("A word in other letters", {"engine": {"kind": "vllm"}}, "one of the values named"),
    Refused(
        "A duration without a unit",
        {"autoscaling": {"slo": {"ttftP95": "500"}}},
        "`ttftP95: 500ms`",
    ),
    Refused(
        "A unit that Kubernetes does not know", {"gpu": {"memoryReserve": "4GB"}}, "`4G` or `4Gi`"
    ),
    Refused(
        "No packs",
        {"packs": 0},
        "`kubectl delete slm NAME`, or `autoscaling.minPacks: 0` for "
        "[none while nobody asks](operate.md#scaling-to-zero)",
    ),
    Refused(
        "Bounds the wrong way round",
        {"autoscaling": {"minPacks": 4, "maxPacks": 2}},
        "swap them",
    ),
    Refused(
        "A count that is fixed and searched for",
        {"replicasPerPack": 2, "autoscaling": {"maxReplicasPerPack": 4}},
        "keep one of the two",
    ),
    Refused(
        "Several GPUs for one replica",
        {"engine": {"args": ["--tensor-parallel-size=2"]}},
        "remove it: packs are for models that one GPU holds; `packs: 2` serves with two GPUs",
    ),
    Refused(
        "A name that is that of another service's packs", {}, "another name", name=f"{NAME}-packs"
    ),
)
LATER = (
    Later(
        "A model that does not exist",
        {"model": {"uri": "file:///models/op-1.3b"}},
        ("Ready", "False", "ModelNotFound"),
        "correct the name, or bring the model there",
    ),
    Later(
        "A Secret that does not exist",
        {"model": MODEL["model"] | {"credentialsSecretRef": {"name": "hub", "key": "token"}}},
        ("Ready", "False", "CreateContainerConfigError"),
        "`kubectl create secret generic hub --from-literal=token=hf_...`; the pack goes on by "
        "itself",
    ),
    Later(
        "An image that nobody has",
        {"engine": {"kind": "Simulated", "image": "elsewhere:1"}},
        ("Ready", "False", "ImagePullBackOff"),
        "correct `engine.image`, or give `podTemplate.imagePullSecrets`",
    ),
    Later(
        "An argument that the engine does not know",
        {"engine": {"kind": "Simulated", "args": ["--no-such-thing"]}},
        ("Ready", "False", "EngineArgumentInvalid"),
        "correct `engine.args`",
    ),
    Later(
        "A model that is too large for the GPU",
        {"model": {"uri": f"file://{HUGE_FOLDER}"}},
        ("Ready", "False", "DoesNotFit"),
        "`slmctl plan` tells beforehand which GPU takes it",
    ),
    Later(
        "More replicas than fit",
        {"replicasPerPack": 32},
        ("Ready", "False", "DoesNotFit"),
        "fewer, or leave `replicasPerPack` out: the operator finds the count",
    ),
    Later(
        "A GPU that no node has free",
        {"engine": {"kind": "vLLM"}, "gpu": {"kind": "NVIDIA"}},
        ("Ready", "False", "Unschedulable"),
        "free one or add a node; `kubectl get nodes` [with their GPUs](install.md)",
    ),
    Later(
        "A latency that no point keeps",
        {"autoscaling": {"maxReplicasPerPack": 1, "slo": {"itlP95": "1ms"}}},
        ("SLOMet", "False", "LatencyAboveSLO"),
        "a latency that `slmctl points NAME` shows; what comes nearest serves meanwhile",
        base=searching(1),
        measured=True,
    ),
)

Apply = Callable[[str, dict[str, Any]], Awaitable[tuple[int, str]]]


@pytest_asyncio.fixture(loop_scope="session")
async def apply(operator_stack: Stack, tmp_path: Path) -> AsyncIterator[Apply]:
    """kubectl apply of a service; its exit code and what it wrote."""
    binaries = await asyncio.to_thread(find_or_build, print)
    names = []
    # What other tests measured would be known here.
    await operator_stack.kube.delete("v1", "ConfigMap", CONFIG_MAP, "default")

    async def run(name: str, spec: dict[str, Any]) -> tuple[int, str]:
        names.append(name)
        obj = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}}
        (tmp_path / FILE).write_text(yaml.safe_dump({**obj, "spec": spec}))
        process = await asyncio.create_subprocess_exec(
            str(binaries.kubectl),
            f"--kubeconfig={operator_stack.kubeconfig}",
            f"--cache-dir={tmp_path}/cache",
            *("apply", "--namespace=default", f"--filename={FILE}"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    yield run
    for name in names:
        await Service(operator_stack, name, {}).delete()


async def test_what_kubectl_apply_refuses(apply: Apply) -> None:
    rows = []
    for case in REFUSED:
        exit_code, said = await apply(case.name, MODEL | case.wrong)
        assert exit_code == 1, said
        wrong = written(case.wrong) if case.wrong else code(f"metadata: {{name: {case.name}}}")
        rows.append((case.mistake, wrong, code(said.strip()), case.remedy))
    compare("Refused at once", table(("mistake", "written", "kubectl apply says", "do"), rows))


async def test_what_a_condition_tells_later(
    operator_stack: Stack, apply: Apply, tmp_path: Path
) -> None:
    folder = tmp_path / "huge"
    write_model(folder, json.dumps(HUGE))
    services = []
    for number, case in enumerate(LATER):
        name = f"{NAME}{number}"
        spec = json.dumps((case.base or fixed()) | case.wrong).replace(HUGE_FOLDER, str(folder))
        exit_code, said = await apply(name, json.loads(spec))
        assert exit_code == 0, said
        services.append(Service(operator_stack, name, {}))
    rows, measured = [], []
    for case, service in zip(LATER, services, strict=True):
        found = await service.condition(*case.seen)
        said = found.message.replace(service.name, NAME).replace(str(folder), HUGE_FOLDER)
        kind, status, reason = case.seen
        shown = f"{code(f'{kind}={status} {reason}')} {said}"
        rows.append((case.mistake, written(case.wrong), shown, case.remedy))
        measured += [case.mistake] if case.measured else []
    compare(
        "Told by a condition",
        table(("mistake", "written", "kubectl describe slm shows", "do"), rows),
        measured,
    )


def written(wrong: dict[str, Any]) -> str:
    flow = yaml.safe_dump(wrong, default_flow_style=True, sort_keys=False, width=10_000)
    return code(f"spec: {flow.strip()}")


def compare(title: str, made: str, measured: Sequence[str] = ()) -> None:
    """The page's table under this title with what was seen; figures of ``measured`` rows may
    differ."""
    page = PAGE.read_text()
    under = page.index(f"\n## {title}\n")
    there = re.compile(r"(?:^\|.*\n)+", re.MULTILINE).search(page, under)
    assert there is not None, f"docs/mistakes.md has no table under {title}"
    if WRITE:
        PAGE.write_text(f"{page[: there.start()]}{made}\n{page[there.end() :]}")
        return
    wanted, seen = (
        [without_figures(row) if row[2:].split(" | ")[0] in measured else row for row in rows]
        for rows in (there[0].splitlines(), made.splitlines())
    )
    assert seen == wanted, "make mistakes"


def without_figures(row: str) -> str:
    return re.sub(r"[0-9][0-9.,]*", "N", row)
