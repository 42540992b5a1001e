"""Scaling policies of other projects, by the rules that their own sources define.

docs/peers.md tells each rule in words, where every constant comes from and what was simplified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from slm_operator.simulate.peers.aibrix import Aibrix
from slm_operator.simulate.peers.aibrix_04 import Aibrix04
from slm_operator.simulate.peers.hpa import Hpa
from slm_operator.simulate.peers.keda import Keda
from slm_operator.simulate.peers.wva import Wva
from slm_operator.simulate.seen import Policy

PEERS: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        "hpa": Hpa,
        "keda-queue": Keda,
        "wva": Wva,
        "aibrix": Aibrix,
        "aibrix-0.4": Aibrix04,
    }
)
"""Each peer as its project ships it; a simulation makes a new one."""
