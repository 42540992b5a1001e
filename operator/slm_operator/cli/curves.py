"""Where a simulation's curve comes from: a file of measurements, or the planner. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from slm_operator.cli import points_file
from slm_operator.csv_file import Cells
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.repeats import pooled
from slm_operator.simulate.costs import length_costs
from slm_operator.simulate.curve import Curve, CurveError
from slm_operator.simulate.hardware import Hardware, LengthCosts
from slm_worker.planning.catalogue import Gpu, gpus
from slm_worker.planning.footprint import ModelError, parse_config
from slm_worker.planning.packing import LayoutError
from slm_worker.planning.performance import Predictor, predictor_of
from slm_worker.planning.workload import STUDY, Workload

PLANNED_REPLICAS = (1, 2, 3, 4)
PLANNED_BATCHES = (1, 4, 16, 64, 128, 256, 512)
"""Layouts that the planner is asked for; between them a curve is interpolated."""


class CurvesError(Exception):
    """No curve can be had; the text names option, value and remedy."""


@dataclass(frozen=True)
class Source:
    """A simulated GPU with its model, and where its figures come from, for the reader."""

    model: str
    hardware: Hardware
    basis: str


def measured(path: str, text: str, model: str | None, gpu_name: str) -> Source:
    """The rows of one model. Raises CurvesError."""
    gpu = _gpu(gpu_name)
    try:
        rows = points_file.parse(text)
    except points_file.PointsFileError as error:
        raise CurvesError(f"--curves {path}: {error}") from None
    names = sorted({row.model for row in rows})
    if model is None and len(names) > 1:
        raise CurvesError(f"--model: not given: choose one of {', '.join(names)} of {path}")
    name = model or names[0]
    own = [row for row in rows if row.model == name]
    if not own:
        raise CurvesError(f"--model {name}: not in {path}: use one of {', '.join(names)}")
    lengths = _lengths(own)
    hardware = Hardware(
        curve=_curve(f"--curves {path}, model {name}", (row.point for row in own), gpu),
        measured_at=lengths,
        costs=LengthCosts(),
        kv_shares=_kv_shares(own),
    )
    basis = (
        f"Curve measured, {len(own)} runs of {path}, with {lengths.prompt_tokens:,.0f} prompt and "
        f"{lengths.output_tokens:,.0f} output tokens a request; idle power of {gpu.name}"
    )
    return Source(name, hardware, basis)


def with_lengths(source: Source, path: str, config_text: str, gpu_name: str) -> Source:
    """The same curve, where longer prompts and contexts cost what the model's shape says, and the
    KV cache holds no more than fits. Raises CurvesError."""
    predictor = _predictor(path, config_text, gpu_name, source.hardware.measured_at)
    hardware = source.hardware
    corrected = Hardware(
        curve=hardware.curve,
        measured_at=hardware.measured_at,
        costs=length_costs(predictor.model, predictor.gpu, predictor.dtype),
        kv_tokens=_kv_tokens(predictor, range(1, max(hardware.curve.replica_counts) + 1)),
    )
    return Source(source.model, corrected, f"{source.basis}; lengths and memory by {path}")


def predicted(path: str, config_text: str, gpu_name: str, load: Workload) -> Source:
    """A curve of the planner for requests like ``load``. Raises CurvesError."""
    predictor = _predictor(path, config_text, gpu_name, load)
    points = []
    for replicas in PLANNED_REPLICAS:
        for batch in PLANNED_BATCHES:
            figures = predictor.predict(replicas, batch).figures
            if figures is not None:
                watts, tokens = figures.watts, figures.tokens_per_second
                points.append(
                    OperatingPoint.without_window(
                        Probe(replicas, replicas, batch), tokens, watts, simulated=True
                    )
                )
    if not points:
        raise CurvesError(f"--model-config {path}: no layout fits {gpu_name}: use a larger GPU")
    hardware = Hardware(
        curve=_curve(f"--model-config {path}", points, predictor.gpu),
        measured_at=load,
        costs=length_costs(predictor.model, predictor.gpu, predictor.dtype),
        kv_tokens=_kv_tokens(predictor, PLANNED_REPLICAS),
    )
    return Source(path, hardware, f"Curve predicted for {path} on {gpu_name}, not measured")


def _gpu(name: str) -> Gpu:
    gpu = gpus().get(name)
    if gpu is None:
        raise CurvesError(f"--gpu {name}: not in the catalogue: use one of {', '.join(gpus())}")
    return gpu


def _curve(what: str, points: Iterable[OperatingPoint], gpu: Gpu) -> Curve:
    try:
        return Curve(tuple(pooled(list(points))), gpu.idle_watts)
    except CurveError as error:
        raise CurvesError(f"{what}: {error}") from None


def _predictor(path: str, config_text: str, gpu_name: str, load: Workload) -> Predictor:
    try:
        parsed = json.loads(config_text)
        config = parse_config(parsed, path) if isinstance(parsed, dict) else None
        if config is None:
            raise CurvesError(f"--model-config {path}: no model's sizes: use its config.json")
        return predictor_of(config, _gpu(gpu_name), dtype="auto", workload=load)
    except json.JSONDecodeError as error:
        raise CurvesError(
            f"--model-config {path}: no JSON ({error}): use the model's config.json"
        ) from None
    except ModelError as error:
        raise CurvesError(f"--model-config {error.message}") from None
    except KeyError:
        raise CurvesError(f"--gpu {gpu_name}: does not multiply this model's dtype") from None
    except ValueError as error:
        raise CurvesError(f"--model-config {path}: {error}") from None


def _kv_tokens(predictor: Predictor, counts: Iterable[int]) -> dict[int, int]:
    found = {}
    for replicas in counts:
        try:
            kv_bytes = predictor.kv_cache_bytes(replicas, 1)
        except LayoutError:
            continue
        found[replicas] = kv_bytes // predictor.model.kv_bytes_per_token
    return found


def _lengths(rows: Iterable[points_file.Row]) -> Workload:
    """Mean lengths of the measured requests, where the file tells them; else the study's."""
    prompts, outputs = [], []
    for row in rows:
        try:
            per_request = _number(row.cells, "duration_s") / _number(row.cells, "prompts")
            output = _number(row.cells, "output_tok_s")
            outputs.append(output * per_request)
            prompts.append((_number(row.cells, "total_tok_s") - output) * per_request)
        except (ValueError, ZeroDivisionError):
            return STUDY
    return Workload(max(1.0, fmean(prompts)), max(1.0, fmean(outputs)))


def _kv_shares(rows: Iterable[points_file.Row]) -> dict[int, float]:
    """What one sequence took of a replica's KV cache, by the runs that did not fill it."""
    found: dict[int, list[float]] = {}
    for row in rows:
        probe = row.point.probe
        try:
            peak = _number(row.cells, "kv_cache_peak")
        except ValueError:
            continue
        if 0 < peak < 1:
            found.setdefault(probe.replicas, []).append(peak / probe.max_num_seqs)
    return {replicas: fmean(shares) for replicas, shares in found.items()}


def _number(cells: Cells, column: str) -> float:
    """Raises ValueError where the file lacks the column, the row the cell, or the cell a number."""
    value = float(cells.get(column) or "")
    if not math.isfinite(value):
        raise ValueError
    return value
