"""PURE: what a replica that started teaches about the next layout's sum."""

from __future__ import annotations

from dataclasses import dataclass

from slm_worker.planning.memory import GIB, Measured, MeasuredBatch, ModelFootprint

MOST_CONTEXT_BYTES = 4 * GIB
"""Four times the estimate: whoever seems to hold more does not hold it alone."""


@dataclass(frozen=True)
class StartedReplica:
    """What is known of a replica's memory once it is ready; None where nobody could see it."""

    max_num_seqs: int
    held_bytes: int | None = None
    """Of the device, by this replica alone: what it used more when it was ready than before."""
    weights_bytes: int | None = None
    activations_bytes: int | None = None
    graphs_bytes: int | None = None
    kv_cache_bytes: int | None = None


def learn(footprint: ModelFootprint, started: StartedReplica) -> ModelFootprint:
    """``footprint`` with what was seen in the place of what was estimated.

    Activations are counted on top of what was held: when an engine is ready it may have given them
    back, and it takes them again for its largest step. So what the device shows beyond weights, KV
    cache and graphs is taken for the context, and the first start tells it: later ones share the
    device with replicas whose memory moves meanwhile. Of what engines say the greatest counts.
    """
    measured = footprint.measured
    batch = _greater(measured.batch(started.max_num_seqs), started)
    others = tuple(
        known for known in measured.batches if known.max_num_seqs != started.max_num_seqs
    )
    weights_bytes = started.weights_bytes or footprint.weights_bytes
    context_bytes = _context_bytes(started, weights_bytes)
    return footprint.model_copy(
        update={
            "weights_bytes": weights_bytes,
            "weights_source": "measured" if started.weights_bytes else footprint.weights_source,
            "measured": Measured(
                context_bytes=measured.context_bytes or context_bytes,
                batches=(*others, batch),
            ),
        }
    )


def _context_bytes(started: StartedReplica, weights_bytes: int) -> int | None:
    """None also for a difference that cannot be this replica's alone."""
    if started.held_bytes is None or started.kv_cache_bytes is None:
        return None
    rest = started.held_bytes - started.kv_cache_bytes - weights_bytes
    rest -= started.graphs_bytes or 0
    return rest if 0 < rest <= MOST_CONTEXT_BYTES else None


def _greater(known: MeasuredBatch, started: StartedReplica) -> MeasuredBatch:
    return MeasuredBatch(
        max_num_seqs=started.max_num_seqs,
        activations_bytes=_greatest(known.activations_bytes, started.activations_bytes),
        graphs_bytes=_greatest(known.graphs_bytes, started.graphs_bytes),
    )


def _greatest(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)
