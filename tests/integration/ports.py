"""Ports of 127.0.0.1 for servers that are started later."""

from __future__ import annotations

import contextlib
import random
import socket
from collections import deque

PORTS = range(10_000, 20_000)
"""Below those of API servers, which are started again at the same port, and below those that Linux
gives to outgoing connections."""
_REMEMBERED = 200
_TRIES = 1000
_random = random.SystemRandom()
_claims: deque[socket.socket] = deque()


def free_port() -> int:
    """One that nobody listens on and that no other test process on this host was given: the UDP
    port of the same number is held as a mark of that, until this process ends or has asked for many
    more."""
    for port in _random.sample(PORTS, _TRIES):
        claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), socket.socket() as probe:
            claim.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            if len(_claims) == _REMEMBERED:
                _claims.popleft().close()
            _claims.append(claim)
            return port
        claim.close()
    raise OSError(f"none of {_TRIES} ports is free")
