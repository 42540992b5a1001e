"""What a pack looks like to a peer: a Pod whose metrics the peer reads.

Several engines in one Pod give several series. Requests add up over them and KV-cache usage is
their mean; a target that a peer's source sets for one engine counts once for each engine of a Pod.
"""

from __future__ import annotations

from statistics import fmean

from slm_operator.simulate.seen import PackSeen, Seen


def reporting(seen: Seen) -> list[PackSeen]:
    """The packs whose engines answer on their metrics endpoint: all but the starting ones."""
    return [pack for pack in seen.packs if pack.replicas]


def engines_per_pod(packs: list[PackSeen]) -> int:
    return max((len(pack.replicas) for pack in packs), default=1)


def running(pack: PackSeen) -> int:
    """``vllm:num_requests_running``."""
    return sum(replica.running for replica in pack.replicas)


def waiting(pack: PackSeen) -> int:
    """``vllm:num_requests_waiting``."""
    return sum(replica.waiting for replica in pack.replicas)


def kv_usage(pack: PackSeen) -> float:
    """``vllm:kv_cache_usage_perc``, formerly ``vllm:gpu_cache_usage_perc``; 0 to 1."""
    return fmean(replica.kv_usage for replica in pack.replicas)


def least(seen: Seen) -> int:
    """One pack or more: every peer's shipped minimum is one replica, and most cannot leave zero."""
    return max(1, seen.min_packs)


def bounded(count: int, seen: Seen) -> int:
    return min(max(count, seen.min_packs), seen.max_packs)
