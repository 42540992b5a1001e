"""PURE: what follows from fatal faults that end every replica on the GPU at once.

Under MPS one client's fault ends all of them, and no new one is let in until the last is gone. So
the set restarts as a whole, after a backoff; and a replica that alone is suspected again and again
is set apart, so that the others can serve.

The fleet calls it so, whenever ``Device.mps.state`` becomes "Faulted"::

    history = FaultHistory(replicas=target.replicas)              # anew for each layout
    history = history.with_fault(clock(), suspects(...))          # once for each fault
    ... every replica out of the router, then ended; then device.recover() ...
    history.set_apart                                             # phase SetApart: not started
    history.restart_at_seconds                                    # the others not before this
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from slm_worker.replicas.health import HEALTHY_RESET_SECONDS, backoff_seconds

SUSPICION_WINDOW_SECONDS = 600.0
FAULTS_UNTIL_SET_APART = 3
"""So many faults within the window, each with this replica as the only suspect."""


@dataclass(frozen=True)
class Fault:
    """One fatal fault. ``at_seconds``: agent clock; ``suspects``: indexes of replicas that may
    have caused it, empty where nothing tells."""

    at_seconds: float
    suspects: frozenset[int] = frozenset()


@dataclass(frozen=True)
class FaultHistory:
    """The faults of one layout of ``replicas`` replicas, as far as they still matter."""

    replicas: int
    recent: tuple[Fault, ...] = ()
    """Those of the last :data:`SUSPICION_WINDOW_SECONDS` before the latest, oldest first."""
    in_a_row: int = 0
    """Faults without :data:`~slm_worker.replicas.health.HEALTHY_RESET_SECONDS` between them."""
    set_apart: frozenset[int] = frozenset()
    """Replicas not to be started until the layout changes; never all of them."""

    def with_fault(self, at_seconds: float, suspected: Collection[int] = ()) -> FaultHistory:
        """The history after one more fatal fault at ``at_seconds`` of the agent's clock."""
        fault = Fault(at_seconds, frozenset(suspected))
        quiet = not self.recent or (
            at_seconds - self.recent[-1].at_seconds >= HEALTHY_RESET_SECONDS
        )
        recent = tuple(
            one
            for one in (*self.recent, fault)
            if at_seconds - one.at_seconds <= SUSPICION_WINDOW_SECONDS
        )
        return replace(
            self,
            recent=recent,
            in_a_row=1 if quiet else self.in_a_row + 1,
            set_apart=self.set_apart | self._condemned(recent),
        )

    @property
    def restart_at_seconds(self) -> float:
        """Agent clock before which no replica starts: 1, 2, 4 ... 60 s after the latest fault;
        minus infinity without any."""
        if not self.recent:
            return float("-inf")
        return self.recent[-1].at_seconds + backoff_seconds(self.in_a_row)

    def _condemned(self, recent: tuple[Fault, ...]) -> frozenset[int]:
        """Whom the latest fault sets apart. With nobody left beside it, a replica cannot be told
        from a GPU or a model that faults by itself, and a pack of none serves nobody."""
        suspected = recent[-1].suspects
        if len(suspected) != 1 or self.replicas - len(self.set_apart) <= 1:
            return frozenset()
        times = sum(one.suspects == suspected for one in recent)
        return suspected if times >= FAULTS_UNTIL_SET_APART else frozenset()


def suspects(
    named_pids: Collection[int], replicas_by_pid: Mapping[int, int], exited_first: int | None
) -> frozenset[int]:
    """Indexes of the replicas that may have caused a fault.

    ``named_pids``: :attr:`MpsStatus.suspect_pids`; ``replicas_by_pid``: the index of
    each replica that ran, by its pid; ``exited_first``: index of the first that ended. The server's
    log outweighs the order of exits, in which a bystander may be quicker than the culprit.
    """
    named = frozenset(replicas_by_pid[pid] for pid in named_pids if pid in replicas_by_pid)
    if named:
        return named
    return frozenset() if exited_first is None else frozenset({exited_first})
