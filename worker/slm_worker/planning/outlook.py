"""PURE: what layouts of a model on a GPU should serve, so that a search knows where to begin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slm_worker import wire
from slm_worker.planning.catalogue import called
from slm_worker.planning.engine_args import parse_options, switched
from slm_worker.planning.footprint import ModelError, parse_config
from slm_worker.planning.performance import predictor_of

BATCHES = (64, 128, 256, 512)
MOST_REPLICAS = 6
"""No curve that the planner predicts still rises there."""


def outlook(
    document: Mapping[str, Any] | None, gpu_name: str, engine: wire.EngineConfig
) -> tuple[wire.Outlook, ...]:
    """Each layout that fits, for requests of the measured runs' lengths; ``document`` is the
    model's config.json, ``gpu_name`` the driver's.

    Empty where nothing can be predicted: an unknown GPU or model, or an engine that is simulated
    and has the planner's own pace.
    """
    gpu = called(gpu_name)
    if document is None or gpu is None or engine.kind == "Simulated":
        return ()
    options = parse_options(engine.args)
    try:
        config = parse_config(document, "config.json")
        if config is None:
            return ()
        predictor = predictor_of(
            config,
            gpu,
            dtype=options.get("dtype", "auto"),
            chunked_prefill=switched(options, "enable-chunked-prefill", default=True),
        )
    except (ModelError, ValueError, KeyError):
        # Not predicted; what is wrong with the model is said where it is read for its size.
        return ()
    predictions = (
        predictor.predict(replicas, batch)
        for replicas in range(1, MOST_REPLICAS + 1)
        for batch in BATCHES
    )
    return tuple(
        wire.Outlook(
            replicas=p.replicas,
            max_num_seqs=p.max_num_seqs,
            output_tokens_per_second=p.figures.tokens_per_second,
            power_watts=p.figures.watts,
            itl_seconds=p.figures.itl_seconds,
        )
        for p in predictions
        if p.figures is not None
    )
