"""The layouts that have to be measured of their own before one is chosen."""

from __future__ import annotations

from slm_operator.pareto.choice import choose
from slm_operator.pareto.points import OperatingPoint, Probe
from slm_operator.pareto.rulings import Rule
from slm_operator.pareto.space import LARGER_BATCH, Known, Measure, SearchSpace, next_smaller
from slm_operator.pareto.walk import startable, step_worth

FULL_CACHE = 0.01
"""Preemptions a request from which on a KV cache was too small for the batch: memory bounds the
point, and a layout of fewer replicas would serve more with each."""


def baseline(space: SearchSpace, known: Known) -> Measure | None:
    """One replica with the largest batch that keeps the limits: packing has to beat it."""
    if space.min_replicas > 1:
        return None
    batches = (LARGER_BATCH, *space.batches) if space.batch_is_free else space.batches
    probe: Probe | None = Probe(1, 1, batches[0])
    while probe is not None and (probe in known or space.fails(probe)):
        smaller = [b for b in batches if b < probe.max_num_seqs]
        if probe in known:
            if not space.limits.broken_by(known[probe]):
                return None
            batch = next_smaller(batches, known[probe], space.limits)
        else:
            batch = max(smaller, default=None)
        probe = None if batch is None else Probe(1, 1, batch)
    if probe is None:
        return None
    larger = probe.max_num_seqs == LARGER_BATCH
    rule = Rule.LARGER_BATCH if larger else Rule.FEWER_IN_OWN_LAYOUT
    why = (
        f"does one replica gain from a batch of {LARGER_BATCH}?"
        if larger
        else "what does one replica alone serve? packing has to beat it"
    )
    return Measure(probe, "Confirming", rule, why)


def commitment(
    space: SearchSpace, known: Known, walked: list[OperatingPoint], proposed: Probe
) -> Measure | None:
    """The committed layout to measure next: from the proposed count downwards, until one whose
    last replica is worth it; last, a smaller batch of the best where that may be better."""
    above: OperatingPoint | None = None
    for replicas in range(proposed.replicas, space.min_replicas - 1, -1):
        own = _own_layout(space, known, replicas, proposed.max_num_seqs)
        if own is None:
            continue
        here = known.get(own)
        if here is None:
            if above is None:
                why = "the proposed count with all memory divided among its replicas"
                return Measure(own, "Confirming", Rule.OWN_LAYOUT, why)
            if _proven_by_rotation(space, known, walked, above):
                break
            why = "do fewer replicas serve as much with all memory divided among them?"
            return Measure(own, "Confirming", Rule.FEWER_IN_OWN_LAYOUT, why)
        if above is not None and step_worth(space, known, here, above):
            break
        above = here
    committed = [p for p in known.values() if p.probe.committed]
    if not committed:
        # Nothing starts alone; the layout of the walk does.
        top = startable(space, space.max_replicas, proposed.max_num_seqs)
        own = Probe(top, top, proposed.max_num_seqs)
        return Measure(own, "Confirming", Rule.WHAT_STARTS, "what does start")
    return _smaller(space, known, choose(committed, space.objective, space.limits).chosen)


def _smaller(space: SearchSpace, known: Known, best: OperatingPoint) -> Measure | None:
    """As many replicas with the next smaller batch, where ``best`` has a larger one than usual, or
    one that its KV cache has no room for: what is preempted is computed twice."""
    larger = best
    for batch in (b for b in space.batches if b < best.probe.max_num_seqs):
        again = larger.preemptions_per_request
        full = again is not None and again >= FULL_CACHE
        if larger.probe.max_num_seqs != LARGER_BATCH and not full:
            return None
        smaller = Probe(best.probe.replicas, best.probe.replicas, batch)
        if smaller in known:
            larger = known[smaller]
        elif space.fails(smaller):
            return None
        else:
            why = (
                f"the KV cache of {larger.probe} ran full, {again:.2f} preemptions a request"
                if full
                else "is the larger batch worth its latency?"
            )
            return Measure(smaller, "Confirming", Rule.SMALLER_BATCH, why)
    return None


def _own_layout(space: SearchSpace, known: Known, replicas: int, batch: int) -> Probe | None:
    """The committed layout of ``replicas`` that is to stand for them: the one with the proposed
    batch, a smaller one where that breaks a limit, and for one replica its best batch."""
    if replicas == 1:
        alone = [p for p in known.values() if p.probe.committed and p.probe.replicas == 1]
        if alone:
            return choose(alone, space.objective, space.limits).chosen.probe
    own = Probe(replicas, replicas, batch)
    while (point := known.get(own)) is not None and space.limits.broken_by(point):
        smaller = next_smaller(space.batches, point, space.limits)
        if smaller is None:
            break
        own = Probe(replicas, replicas, smaller)
    return None if space.fails(own) else own


def _proven_by_rotation(
    space: SearchSpace, known: Known, walked: list[OperatingPoint], above: OperatingPoint
) -> bool:
    """Whether rotation has shown that the last replica of ``above`` is worth it, with as much
    memory as each would use: then a layout of one fewer has nothing to add."""
    step = [
        p for p in walked if above.probe.replicas - 1 <= p.probe.replicas <= above.probe.replicas
    ]
    step = [p for p in step if p.probe.max_num_seqs == above.probe.max_num_seqs]
    return (
        len(step) == 2
        and step[0].probe.layout_replicas == step[1].probe.layout_replicas
        and step_worth(space, known, *step)
        and all(_memory_to_spare(p) for p in step)
    )


def _memory_to_spare(point: OperatingPoint) -> bool:
    """Whether no KV cache ran full; False while that is unknown."""
    again = point.preemptions_per_request
    return again is not None and again < FULL_CACHE
