"""What is asked of ``slmctl local``, as the SLMService that asks the same of a cluster. Pure, but
for looking whether a model's directory exists."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from slm_operator.api.models import API_VERSION, KIND, SLMService
from slm_operator.api.rules import API_SERVERS_NAME, MAX_NAME_LENGTH, PACKS_SUFFIX

Manifest = dict[str, Any]
GpuKind = Literal["NVIDIA", "CPU", "Simulated"]

SIMULATED_MODELS = {"opt-1.3b": "hf://facebook/opt-1.3b"}
"""Short names, for a first look: the model whose measurements the simulated H100 replays."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_PATH_CHARACTERS = re.compile(r"[A-Za-z0-9._@+=/-]+")
"""Those that spec.model.uri takes."""


class LocalError(Exception):
    """It cannot go on; the message has cause and remedy. ``log``: the end of the pack's log."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True)
class Request:
    """None leaves a field of the SLMService at its default."""

    model_uri: str
    gpu: GpuKind
    engine_args: tuple[str, ...] = ()
    max_num_seqs: int | None = None
    max_replicas: int | None = None
    objective: str | None = None
    ttft_p95: str | None = None
    """Longest, such as 500ms."""
    itl_p95: str | None = None
    power_budget_watts: int | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def gpu_kind(gpu: str, engine: str | None, nvidia_answers: Callable[[], bool]) -> GpuKind:
    """The device that the options ``gpu`` and ``engine`` mean. Raises LocalError."""
    if gpu == "auto" and engine != "simulated":
        return "NVIDIA" if nvidia_answers() else "CPU"
    if engine == "simulated" and gpu not in ("auto", "simulated"):
        raise LocalError(
            f"--engine simulated runs on the simulated GPU alone, and --gpu is {gpu}: leave out "
            "one of the two"
        )
    if gpu == "simulated" and engine == "vllm":
        raise LocalError(
            "--engine vllm needs a real device, and --gpu is simulated: use --gpu nvidia or cpu, "
            "or leave out --engine"
        )
    return "NVIDIA" if gpu == "nvidia" else "CPU" if gpu == "cpu" else "Simulated"


def model_uri(model: str, folder: Path) -> str:
    """``model``, an hf:// or file:// URI, a directory (relative to ``folder``), a name on the hub
    or a short one, as spec.model.uri. Raises LocalError."""
    if model in SIMULATED_MODELS:
        return SIMULATED_MODELS[model]
    if model.startswith("hf://"):
        if not _HUB_NAME.fullmatch(model.removeprefix("hf://")):
            raise LocalError(
                f"MODEL is {model!r}: write hf://ORGANISATION/NAME, such as hf://facebook/opt-1.3b"
            )
        return model
    if model.startswith("file://"):
        return _directory_uri(model, Path(model.removeprefix("file://")))
    path = folder / Path(model).expanduser()
    if model.startswith(("/", "./", "../", "~")) or path.exists():
        return _directory_uri(model, path)
    if _HUB_NAME.fullmatch(model):
        return f"hf://{model}"
    raise LocalError(
        f"MODEL is {model!r}, which is neither a directory here nor a name on the hub: give the "
        "directory with config.json and the weights, or hf://ORGANISATION/NAME"
    )


def _directory_uri(model: str, path: Path) -> str:
    if not path.is_absolute():
        raise LocalError(f"MODEL is {model!r}: write file:///ABSOLUTE/PATH with three slashes")
    if not path.is_dir():
        what = "is no directory" if path.exists() else "does not exist"
        raise LocalError(
            f"MODEL is {model!r}, and {path} {what}: give the directory that holds config.json and "
            "the weights"
        )
    found = str(path.resolve())
    if not _PATH_CHARACTERS.fullmatch(found):
        raise LocalError(
            f"MODEL is {model!r}: spec.model.uri takes letters, digits and ._@+=-/ in a path: "
            f"rename or link {found}"
        )
    return f"file://{found}"


def manifest(request: Request) -> Manifest:
    """The SLMService, with what differs from the defaults alone."""
    spec: Manifest = {"model": {"uri": request.model_uri}}
    simulated = request.gpu == "Simulated"
    engine = _given(
        kind="Simulated" if simulated else None,
        args=list(request.engine_args) or None,
        maxNumSeqs=request.max_num_seqs,
    )
    autoscaling = _given(
        maxReplicasPerPack=request.max_replicas,
        objective=request.objective,
        slo=_given(ttftP95=request.ttft_p95, itlP95=request.itl_p95),
        powerBudgetWatts=request.power_budget_watts,
        calibration=_given(promptTokens=request.prompt_tokens, outputTokens=request.output_tokens),
    )
    spec |= _given(
        engine=engine,
        gpu=_given(kind=None if request.gpu == "NVIDIA" else request.gpu),
        autoscaling=autoscaling,
    )
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": service_name(request.model_uri)},
        "spec": spec,
    }


def service_name(uri: str) -> str:
    """A metadata.name for a model: its own, in the letters that a Service's name takes."""
    own = uri.rstrip("/").rpartition("/")[2].lower()
    name = re.sub(r"[^a-z0-9]+", "-", own).strip("-")[:MAX_NAME_LENGTH].strip("-")
    if not name[:1].isalpha() or name == API_SERVERS_NAME:
        name = f"slm-{name}".rstrip("-")[:MAX_NAME_LENGTH]
    return name.removesuffix("s") if name.endswith(PACKS_SUFFIX) else name


def service(wanted: Manifest) -> SLMService:
    """As the API server would hold it. Raises LocalError."""
    metadata = {**wanted["metadata"], "namespace": "default", "uid": "local", "generation": 1}
    try:
        return SLMService.from_object({**wanted, "metadata": metadata})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, ("spec", *first["loc"])))
        raise LocalError(f"{field} is {first['input']!r}: {first['msg']}") from None


def _given(**fields: object) -> Manifest:
    """Those that say something."""
    return {name: value for name, value in fields.items() if value not in (None, {})}
