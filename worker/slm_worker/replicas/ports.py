"""Ports on which engines of one pack will listen."""

from __future__ import annotations

import contextlib
import socket
from collections import deque

from slm_worker.wire import MAX_REPLICAS_PER_PACK

_REMEMBERED = 2 * MAX_REPLICAS_PER_PACK
_TRIES = 100
"""In which a host with hardly any ports has none other: then engines may meet on one."""


class Ports:
    """An engine binds its port seconds after it was chosen. Until then the kernel may give it out
    again, and vLLM before mid 2026 would share it (SO_REUSEPORT) with another engine unnoticed."""

    def __init__(self) -> None:
        self._given: deque[int] = deque(maxlen=_REMEMBERED)

    def choose(self, address: str) -> int:
        """A port that nobody listens on, nor was given to one of the latest starts. Raises OSError.

        Should another program take it before the engine does, the engine ends, and its next start
        asks again."""
        port = free_port(address)
        for _ in range(_TRIES):
            if port not in self._given:
                break
            port = free_port(address)
        self._given.append(port)
        return port


def free_port(address: str) -> int:
    """A port that nobody listens on now. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
