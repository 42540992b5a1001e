"""Loopback addresses for Pods, one each."""

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv4Network

CLAIM_PORT = 65535
DEFAULT_NETWORK = IPv4Network("127.64.0.0/16")


class AddressPool:
    """Hands out each address of a network once until it is given back.

    An address is claimed by holding its UDP port 65535, so that nodes in several processes of one
    host share a network without a registry, and a node that is killed gives its addresses back.
    """

    def __init__(self, network: IPv4Network = DEFAULT_NETWORK) -> None:
        self._network = network
        self._next = network.hosts()
        self._claims: dict[str, socket.socket] = {}

    def claim(self) -> str:
        """An address that no one holds, the one after the last if it is free.

        Raises:
            OSError: all are taken, or the network is not one of this host.
        """
        for address in self._candidates():
            claim = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                claim.bind((address, CLAIM_PORT))
            except OSError as error:
                claim.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self._claims[address] = claim
            return address
        raise OSError(errno.EADDRNOTAVAIL, f"every address of {self._network} is in use")

    def release(self, address: str) -> None:
        """Gives an address back."""
        self._claims.pop(address).close()

    def _candidates(self) -> Iterator[str]:
        for _ in range(self._network.num_addresses):
            try:
                yield str(next(self._next))
            except StopIteration:
                self._next = self._network.hosts()
