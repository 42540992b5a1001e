"""What the demo needs of this host, found or made before anything is started."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml

from slm_dev.controlplane import (
    Binaries,
    ControlPlaneBuildError,
    ControlPlaneMissing,
    find_or_build,
)
from slm_dev.stack import REPOSITORY, StackSettings
from slm_dev.vllm_cpu.errors import SetupError
from slm_dev.vllm_cpu.install import ensure_environment
from slm_dev.vllm_cpu.model import ensure_model
from slm_operator.cli.outcome import DemoFailedError, Options

EXAMPLES = {"simulated": "simulated-h100.yaml", "vllm": "vllm-cpu.yaml"}


@dataclass(frozen=True)
class Prepared:
    """What a run needs and this host has."""

    binaries: Binaries
    settings: StackSettings
    manifest: dict[str, Any]
    """The SLMService."""


def prepare(options: Options, say: Callable[[str], None]) -> Prepared:
    """Finds, or once makes, whatever the run needs. Raises DemoFailedError with the remedy."""
    if shutil.which("haproxy") is None:
        raise DemoFailedError("haproxy is not on PATH, and packs route by it: install haproxy")
    if shutil.which("nvidia-smi") and shutil.which("vllm"):
        say(
            "This host has an NVIDIA GPU and vLLM. To pack models on it, run slm-operator against "
            "its cluster (README, 'Using it'), then kubectl apply -f examples/smallest.yaml"
        )
    manifest = yaml.safe_load((REPOSITORY / "examples" / EXAMPLES[options.engine]).read_text())
    arguments = []
    if options.min_window_seconds is not None:
        arguments.append(f"--min-window-seconds={options.min_window_seconds}")
    try:
        binaries = find_or_build(say)
        if options.engine == "simulated":
            return Prepared(binaries, StackSettings(operator_arguments=arguments), manifest)
        environment = ensure_environment(say)
        model = ensure_model(say)
    except (ControlPlaneMissing, ControlPlaneBuildError, SetupError) as error:
        raise DemoFailedError(str(error)) from error
    manifest["spec"]["model"]["uri"] = model.as_uri()
    settings = StackSettings(
        operator_arguments=arguments,
        worker_environment=environment.environment,
        worker_programs=[environment.vllm.parent],
    )
    return Prepared(binaries, settings, manifest)
