"""What a search has measured, read from the status."""

from __future__ import annotations

from slm_operator.api.models import SLMService
from slm_operator.api.status import FrontierPoint


def measured(service: SLMService) -> dict[tuple[int, int, int], FrontierPoint]:
    """The points by replicas started, replicas in rotation and batch. Their order says little: one
    that the noise of a busy machine left in doubt was measured again, last of all."""
    return {
        (p.layout_replicas, p.replicas_per_pack, p.max_num_seqs): p for p in service.status.frontier
    }


def decisions(service: SLMService) -> list[str]:
    """What the history of a search holds: a decision after each window, the knee after the last."""
    return ["Probed"] * (sum(p.windows for p in service.status.frontier) - 1) + ["KneeFound"]


def kept(before: SLMService, found: SLMService) -> None:
    """The first point of ``before`` was not lost: it is the same, or another window was pooled
    with it."""
    probe, old = next(iter(measured(before).items()))
    new = measured(found)[probe]
    assert new.windows >= old.windows
    if new.windows == old.windows:
        assert new.measured_at == old.measured_at, "measured anew"
        assert new.output_tokens_per_second == old.output_tokens_per_second
