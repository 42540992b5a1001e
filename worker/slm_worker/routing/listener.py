"""The router's listening socket, which belongs to the agent and outlives any HAProxy process."""

from __future__ import annotations

import errno
import socket

from slm_worker.routing.config import BACKLOG


class RouterError(Exception):
    """The router cannot be started or refused a command. The message says what to do."""


def listen(address: str, port: int) -> socket.socket:
    """Raises :class:`RouterError` when the port is taken or the address is not this host's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    where = f"{address}:{port}"
    try:
        return socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RouterError(
                f"port taken: another process listens on {where}; stop it or choose another port"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise RouterError(
                f"address {where} is not one of this host's: give the pod's own address"
            ) from None
        raise RouterError(f"the router cannot listen on {where}: {error.strerror}") from None
