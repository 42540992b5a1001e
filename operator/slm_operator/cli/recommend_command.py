"""slmctl recommend: what was measured to be best, beside what runs; and its way into the spec."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import typer
import yaml

from slm_operator.api.models import API_VERSION, KIND, SLMService
from slm_operator.api.status import FrontierPoint
from slm_operator.cli import lookup, tables
from slm_operator.cli.terminal import (
    KubeconfigOption,
    NamespaceOption,
    Output,
    OutputOption,
    console,
    fail,
    print_json,
    say,
)
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.kube import Kube, Object
from slm_operator.decide.calibrate import resting_probe

FIELD_MANAGER = "slmctl-recommend"


class NoRecommendationError(Exception):
    """There is nothing to recommend; the message says why, and what to do."""


@dataclass(frozen=True)
class Recommendation:
    """A measured point that is better than what runs, or that."""

    point: FrontierPoint
    runs: str
    """The layout that runs, in words."""
    now: FrontierPoint | None
    """What was measured of it, if it was."""
    runs_already: bool

    @property
    def spec(self) -> dict[str, Any]:
        """The part of the spec that asks for it."""
        return {
            "replicasPerPack": self.point.replicas_per_pack,
            "engine": {"maxNumSeqs": self.point.max_num_seqs},
        }


def recommendation(service: SLMService) -> Recommendation:
    """Raises NoRecommendationError."""
    if service.autoscaling.mode != "Recommend":
        raise NoRecommendationError(
            f"{service.name} is in mode Auto, where the operator runs what it finds: see `slmctl "
            f"explain {service.name}`; set spec.autoscaling.mode to Recommend for advice alone"
        )
    chosen = next((p for p in service.status.frontier if p.chosen), None)
    if chosen is None:
        now = tables.measuring(service.status) or tables.standing(service)
        raise NoRecommendationError(f"nothing can be recommended for {service.name} yet: {now}")
    resting = resting_probe(service)
    key = (resting.replicas, resting.max_num_seqs)
    measured = [p for p in service.status.frontier if (p.replicas_per_pack, p.max_num_seqs) == key]
    measured.sort(key=lambda p: p.layout_replicas)
    return Recommendation(
        point=chosen,
        runs=str(resting),
        now=measured[0] if measured else None,
        runs_already=key == (chosen.replicas_per_pack, chosen.max_num_seqs),
    )


def recommend(
    name: Annotated[str, typer.Argument(help="An SLMService in mode Recommend.")],
    apply: Annotated[
        bool, typer.Option("--apply", help="Write it into the spec; the packs then run it.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --apply: also where another owns the fields.")
    ] = False,
    namespace: NamespaceOption = None,
    kubeconfig: KubeconfigOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Tells which layout was measured to be best, beside what runs, and writes it into the spec if
    asked to."""
    where = namespace or lookup.default_namespace(kubeconfig)
    obj = lookup.find(kubeconfig, where, name)
    service = lookup.read(obj)
    try:
        found = recommendation(service)
    except NoRecommendationError as error:
        fail(str(error))
    if output is Output.JSON:
        print_json(_document(service, found))
    else:
        console().print(text(found, service))
    if apply and found.runs_already and service.spec.replicas_per_pack is not None:
        say(f"{name} runs it already: nothing to apply")
    elif apply:
        lookup.run(kubeconfig, lambda kube: _write(kube, obj, found, force))
        say(f"applied to {where}/{name}: {tables.point_name(found.point)} on each GPU")


def text(found: Recommendation, service: SLMService) -> str:
    """For people; ends with the lines of the manifest."""
    lines = [f"{tables.point_name(found.point)} is recommended: {found.point.why}"]
    if found.runs_already:
        lines.append("It is what runs.")
    elif found.now is None:
        lines.append(f"{found.runs} runs, of which nothing was measured.")
    else:
        lines.append(f"{found.runs} runs. {_compared(found.now, found.point)}")
    if tables.simulated(service):
        lines.append(tables.SIMULATED_NOTE)
    if not found.runs_already:
        manifest = yaml.safe_dump({"spec": found.spec}, sort_keys=False)
        lines += [
            "",
            f"`slmctl recommend {service.name} --apply` writes it, or in the manifest:",
            "",
            manifest.rstrip(),
        ]
    return "\n".join(lines)


def _compared(now: FrontierPoint, then: FrontierPoint) -> str:
    said = [
        f"Output tokens/s: {now.output_tokens_per_second:,} now, "
        f"{then.output_tokens_per_second:,} then "
        f"({_percent(now.output_tokens_per_second, then.output_tokens_per_second)})"
    ]
    if now.power_watts is not None and then.power_watts is not None:
        said.append(f"W: {now.power_watts:,} and {then.power_watts:,}")
    spent, spends = now.microjoules_per_output_token, then.microjoules_per_output_token
    if spent is not None and spends is not None:
        said.append(
            f"J a token: {spent / 1e6:.4f} and {spends / 1e6:.4f} ({_percent(spent, spends)})"
        )
    return "; ".join(said) + "."


def _percent(now: int, then: int) -> str:
    return f"{100 * (then / now - 1):+.1f} %" if now else "from nothing"


async def _write(kube: Kube, obj: Object, found: Recommendation, force: bool) -> None:
    """Raises LookupFailedError where the fields are somebody else's, and KubeError."""
    metadata = obj["metadata"]
    wanted = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        # The UID, so that nothing is made where the service has gone meanwhile.
        "metadata": {key: metadata[key] for key in ("name", "namespace", "uid")},
        "spec": found.spec,
    }
    try:
        await kube.apply(wanted, force=force, manager=FIELD_MANAGER)
    except KubeError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        raise lookup.LookupFailedError(
            f"{' '.join(error.message.split())}: change the manifest of whoever owns these fields "
            "as shown, or take them over with --force"
        ) from error


def _document(service: SLMService, found: Recommendation) -> dict[str, Any]:
    def stored(point: FrontierPoint | None) -> dict[str, Any] | None:
        if point is None:
            return None
        return point.model_dump(mode="json", by_alias=True, exclude_none=True)

    return {
        "name": service.name,
        "namespace": service.namespace,
        "simulated": tables.simulated(service),
        "recommended": stored(found.point),
        "runs": {"layout": found.runs, "measured": stored(found.now)},
        "runsAlready": found.runs_already,
        "spec": found.spec,
    }
