"""PURE: replicas that share one GPU, as customers of one server.

A step alternates between the GPU and the gaps in which it waits for the replica's host. Under MPS
the others' kernels fill those gaps; kernels that all want the memory bus queue for it. That is a
closed queueing network of one server and a delay, solved by exact mean value analysis: it has no
constant of its own.
"""

from __future__ import annotations


def cycle_seconds(replicas: int, gpu_seconds: float, gap_seconds: float) -> float:
    """Time of one step of each of ``replicas`` equal replicas.

    ``gpu_seconds``: how long the step needs the GPU to itself; ``gap_seconds``: how long it leaves
    it free. One replica takes their sum; many take ``replicas * gpu_seconds``.
    """
    waiting, cycle = 0.0, gpu_seconds + gap_seconds
    for population in range(1, replicas + 1):
        served = gpu_seconds * (1 + waiting)
        cycle = served + gap_seconds
        waiting = population * served / cycle
    return cycle
