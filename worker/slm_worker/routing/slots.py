"""PURE: a replica's place at the router, and the runtime commands that put HAProxy in its state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from slm_worker.routing.config import BALANCES, DESCRIBE, Balance, routing_entries, slot_name
from slm_worker.wire import Routing

ACCEPTED = re.compile(
    r"\s*|(IP changed|no need to change the addr).* port.* by 'stats socket command'"
)
"""A line of HAProxy's answer to a command that it carried out."""

OFFER_QUEUE_TO_HOLDER = [f"set maxconn server {balance}/hold 1" for balance in BALANCES]
"""HAProxy offers its queue when a server ends a request or leaves maintenance, but neither when it
leaves drain nor to the hold slot when the last replica goes: requests would wait until their
timeout. Setting a server's limit makes HAProxy offer it the queue."""


class SlotState(StrEnum):
    """As the runtime API names them."""

    READY = "ready"
    DRAIN = "drain"
    MAINTENANCE = "maint"


@dataclass(frozen=True)
class Slot:
    """What is wished of it."""

    port: int
    max_num_seqs: int
    state: SlotState = SlotState.MAINTENANCE


def endpoint_commands(index: int, host: str, port: int) -> list[str]:
    return [
        f"set server {name}/{slot_name(index)} addr {host} port {port}"
        for name in (*BALANCES, DESCRIBE)
    ]


def state_commands(index: int, state: SlotState) -> list[str]:
    """To be followed by a limit, or by :data:`OFFER_QUEUE_TO_HOLDER` unless it is ready. The slots
    of ``describe`` follow by themselves.

    The way to ready leads through drain: what HAProxy hands to a server that leaves maintenance it
    does not count as that server's. The batch would be filled twice, and no cut would reach it.
    """
    way = (SlotState.DRAIN, state) if state is SlotState.READY else (state,)
    return [
        f"set server {balance}/{slot_name(index)} state {step}"
        for balance in BALANCES
        for step in way
    ]


def limit_command(index: int, balance: Balance, requests: int) -> str:
    return f"set maxconn server {balance}/{slot_name(index)} {requests}"


def map_commands(path: Path, routing: Routing, *, keeps_connections: bool) -> list[str]:
    entries = routing_entries(routing, keeps_connections=keeps_connections)
    return [f"set map {path} {key} {value}" for key, value in entries.items()]


def cut_commands(index: int) -> list[str]:
    return [f"shutdown sessions server {name}/{slot_name(index)}" for name in (*BALANCES, DESCRIBE)]
