"""PURE: how many requests a replica is sent at once."""

from __future__ import annotations

from collections.abc import Iterable


def max_in_flight(max_num_seqs: int) -> int:
    """The most requests that a replica which batches ``max_num_seqs`` sequences is sent at once.

    A little more than its batch (1/16, at least 2): when a sequence ends, the next one already
    waits in the engine and takes its place in the same step, while the router's answer would come
    a round trip later. The rest waits at the router, where it can still go to another replica.
    """
    return max_num_seqs + max(2, max_num_seqs // 16)


def is_crowded(batches: Iterable[int], requests: int) -> bool:
    """Whether ``requests``, in flight and waiting, fill every replica in rotation with its margin.

    ``batches``: ``max_num_seqs`` of each. With fewer requests a margin would keep some waiting in
    one engine while another has room in its batch.
    """
    slots = sum(map(max_in_flight, batches))
    return 0 < slots <= requests


def limit(max_num_seqs: int, *, crowded: bool, elsewhere: int) -> int:
    """What a replica is sent at once by one way of balancing.

    ``elsewhere``: requests that it still works on from the other way, after a change of mode. At
    least 1, so that the queue always moves.
    """
    wanted = max_in_flight(max_num_seqs) if crowded else max_num_seqs
    return max(1, wanted - elsewhere)
