"""What tells whether a measured point says anything about a service, and where it is kept."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

from slm_operator.api.models import SLMService
from slm_operator.decide.traffic import calibration_load
from slm_operator.pareto.shift import ShiftRules
from slm_worker.wire import Load, PackState

LENGTH_RATIO = ShiftRules().leave_ratio
"""Lengths of one bucket differ by no more than this: so near to others, traffic counts as the same.
"""


def fingerprint(service: SLMService, worker_image: str, state: PackState | None) -> str:
    """Changes when a measured point no longer says anything about the service: another model,
    engine, image, argument, calibration load, GPU or way of sharing it. While no pack has opened
    its GPU, the part of the GPU is the one known before."""
    wanted = {
        **_configuration(service, worker_image),
        "load": calibration_load(service).model_dump(mode="json"),
    }
    return f"{_digest(wanted)}-{device(state) or known_device(service)}"


def known_device(service: SLMService) -> str:
    """The GPU of which the status' points speak; empty while none is known."""
    before = service.status.calibration
    return before.fingerprint.partition("-")[2] if before else ""


def same_configuration(before: str, now: str) -> bool:
    """Whether both fingerprints speak of one configuration; a GPU that was not known yet may be
    any."""
    spec, _, opened = before.partition("-")
    spec_now, _, opened_now = now.partition("-")
    return spec == spec_now and opened in ("", opened_now)


def profile_key(service: SLMService, worker_image: str, state: PackState, load: Load) -> str:
    """By which services share what was measured: as the fingerprint, but for the lengths of
    ``load``, which have to fall into one bucket, and with the worker's release. Empty while the
    pack has not opened its GPU."""
    opened = device(state)
    if not opened:
        return ""
    wanted = {
        **_configuration(service, worker_image),
        "worker": state.version,
        "lengths": [_bucket(load.prompt_tokens), _bucket(load.output_tokens)],
    }
    return f"{_digest(wanted)}-{opened}"


def _configuration(service: SLMService, worker_image: str) -> dict[str, Any]:
    spec = service.spec
    return {
        "model": spec.model.model_dump(mode="json", include={"uri", "revision"}),
        "engine": spec.engine.model_dump(mode="json", exclude={"max_num_seqs", "image"}),
        "image": spec.engine.image or worker_image,
        "gpu": spec.gpu.model_dump(mode="json"),
    }


def device(state: PackState | None) -> str:
    """The part of a fingerprint that a pack's GPU decides; empty until it has opened that."""
    if state is None or state.packing is None:
        return ""
    sharing = ["in turns"] if state.gpu.mps == "Unavailable" else []
    return _digest([state.gpu.name, state.gpu.memory_bytes, *sharing])


def _bucket(tokens: int) -> int:
    return round(math.log(max(tokens, 1)) / math.log(LENGTH_RATIO))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
