"""The router's HAProxy configuration as text. Pure.

Written once per start and never reloaded: every replica slot is declared beforehand, in
maintenance, and moved by the runtime API. How the parts play together:

- A slot is a server in three backends. ``concentrate`` (``balance first``) fills the first replicas
  to their ``maxconn``, since a full batch reads the weights once, then spills over to the next;
  ``spread`` takes the least busy. Both queue when all are full. A map, which the runtime API
  changes, names the one that new requests go to and how many may wait. ``describe`` answers what
  takes no place in a batch, so that a probe does not wait behind completions.
- One thread: HAProxy 2.6 can lose a wake-up of its queue between threads, and one thread carries
  far more than one GPU's requests.
- The listening socket is the agent's and inherited: when HAProxy dies, new connections wait for
  the next one instead of being refused.
- Connections to engines are kept and reused, which spares a third of a millisecond per request.
  Engines never close an idle one (see :class:`slm_worker.engine.base.Engine`), since a request
  already on its way to a closing connection would be lost.
- A slot whose connection is refused is marked down at once and probed until it listens again, so
  that requests not yet sent go elsewhere before the agent knows of the death.
- Clients keep their connections, and a Service leads only new ones elsewhere. So once the map says
  that the pack ends, each answer ends its connection too.
- The ``hold`` slots are backups: HAProxy uses them only when no replica takes requests. Each takes
  one request and keeps the others queued here instead of refused; see
  :mod:`slm_worker.routing.holder`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from slm_worker.routing.answers import (
    LENGTH_REQUIRED,
    NO_REPLICA,
    NOT_SERVED,
    QUEUE_FULL,
    RETRY_LATER_SECONDS,
    RETRY_SOON_SECONDS,
    SERVED_PATHS,
    error_body,
    returned,
)
from slm_worker.wire import MAX_REPLICAS_PER_PACK, Routing

MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""Largest accepted request body; a prompt of 131,072 tokens is about 1 MiB of JSON."""
MAX_HEADER_BYTES = 16 * 1024
"""HAProxy's buffer, which request line and headers together have to fit. Whatever stands between it
and a client takes as much, so that a request is refused by HAProxy or nobody."""

CONNECT_TIMEOUT_MILLISECONDS = 250
"""Loopback connects in microseconds unless the engine's accept queue is full. Also the pause
between two tries at the same replica."""
CONNECT_TRIES = 20
"""With the pause above: five seconds for the agent to take a dead lone replica out."""
RESPONSE_TIMEOUT_SECONDS = 3600
"""Longest silence of an engine: a completion that is not streamed is silent until its last token,
and 131,072 tokens at 40 tokens/s take almost an hour."""
KEEP_ALIVE_SECONDS = 120
"""How long an idle client connection stays open: longer than usual proxies keep theirs, so that
the client is the one who closes."""
BACKLOG = 4096
"""Connections that wait to be accepted while HAProxy is being replaced."""
MAX_FILE_DESCRIPTORS = 65_536
"""Bounds memory: about 32,000 connections at two descriptors each."""
DESCRIBING_PER_REPLICA = 64
"""Requests to ``describe`` that one replica gets at once: they cost an engine little, not nothing.
"""

SERVED_MODEL_PATH = "^/v1/models(/[A-Za-z0-9][A-Za-z0-9._-]*(%2[Ff][A-Za-z0-9][A-Za-z0-9._-]*)*)+$"
"""A model by its name, whose slash may be escaped. No part begins with a dot, so none is a step
up."""

LOAD_HEADER = "X-SLM-Load"
"""Marks requests of the calibration load; users' requests overtake them in the queue."""

STATS_SOCKET = "router.sock"
RELAY_SOCKET = "relay.sock"
HOLD_SOCKET = "hold.sock"
CONFIG_FILE = "haproxy.cfg"
ROUTING_MAP = "routing.map"

MAX_RUN_DIR_LENGTH = 80
"""A unix socket's path holds at most 107 bytes, and HAProxy appends a suffix while it binds."""

Balance = Literal["concentrate", "spread"]
CONCENTRATE: Balance = "concentrate"
SPREAD: Balance = "spread"
BALANCES: tuple[Balance, ...] = (CONCENTRATE, SPREAD)
"""Backends that completions go to."""
DESCRIBE = "describe"
FULL = "full"
BACKEND_OF = {"Concentrate": CONCENTRATE, "Spread": SPREAD}
HOLD_ID = 1000
"""Of the server ``hold``; slots have their index + 1."""


@dataclass(frozen=True)
class ClientTimeouts:
    """How long a client may keep the router waiting."""

    header_seconds: int = 10
    """For a request's line and headers, which a client sends at once."""
    body_seconds: int = 60
    """For the first 16 KiB of its body; what is longer is passed on as it comes."""
    idle_seconds: int = 60
    """Without sending or taking a byte when it should. A client that waits for a silent engine is
    not meant. One that never reads its stream is cut this long after all buffers on the way are
    full; until then it costs its place in the batch and nobody else's."""


DEFAULT_TIMEOUTS = ClientTimeouts()


@dataclass(frozen=True)
class RouterSettings:
    """Where the router listens, where replicas are, and the private directory of its sockets."""

    address: str
    port: int
    replica_host: str
    run_dir: Path
    timeouts: ClientTimeouts = DEFAULT_TIMEOUTS

    def __post_init__(self) -> None:
        for name, value in (("address", self.address), ("replica_host", self.replica_host)):
            try:
                ipaddress.ip_address(value)
            except ValueError as error:
                raise ValueError(f"{name} {value!r} is no IP address: give one") from error
        if not 1 <= self.port <= 65_535:
            raise ValueError(f"port {self.port} is not in 1..65535: give a TCP port")
        path = str(self.run_dir)
        if not re.fullmatch(r"/[\w./-]*", path) or len(path) > MAX_RUN_DIR_LENGTH:
            raise ValueError(
                f"run_dir {path!r} must be an absolute path of letters, digits, '.', '_', '-' "
                f"and at most {MAX_RUN_DIR_LENGTH} characters: choose another directory"
            )


def slot_name(index: int) -> str:
    """The name of a replica's server in every backend."""
    if not 0 <= index < MAX_REPLICAS_PER_PACK:
        raise ValueError(f"replica index {index} is not in 0..{MAX_REPLICAS_PER_PACK - 1}")
    return f"r{index}"


def routing_entries(routing: Routing, *, keeps_connections: bool) -> dict[str, str]:
    """The map's keys and values."""
    return {
        "backend": BACKEND_OF[routing.mode],
        "max_queued": str(routing.max_queued_requests),
        "connections": "keep" if keeps_connections else "close",
    }


def render_map(routing: Routing, *, keeps_connections: bool = True) -> str:
    """The text of ``routing.map``, as HAProxy reads it at its start."""
    entries = routing_entries(routing, keeps_connections=keeps_connections)
    return "".join(f"{key} {value}\n" for key, value in entries.items())


def render(settings: RouterSettings, routing: Routing, listener: int) -> str:
    """The text of ``haproxy.cfg``. ``listener``: the inherited socket's file descriptor."""
    run_dir, timeouts = settings.run_dir, settings.timeouts
    routing_map = run_dir / ROUTING_MAP
    return f"""\
global
  nbthread 1
  fd-hard-limit {MAX_FILE_DESCRIPTORS}
  stats socket {run_dir / STATS_SOCKET} mode 600 level admin
  stats timeout 30s

defaults
  mode http
  option http-keep-alive
  option http-no-delay
  option abortonclose
  option redispatch 1
  retries {CONNECT_TRIES}
  retry-on conn-failure
  timeout connect {CONNECT_TIMEOUT_MILLISECONDS}ms
  timeout queue {routing.queue_timeout_seconds}s
  timeout server {RESPONSE_TIMEOUT_SECONDS}s
  timeout client {timeouts.idle_seconds}s
  timeout http-request {timeouts.header_seconds}s
  timeout http-keep-alive {KEEP_ALIVE_SECONDS}s
{_lines(_http_errors())}

frontend router
  bind fd@{listener} backlog {BACKLOG}
  unique-id-format %[uuid()]
  http-request set-header X-Request-Id %[unique-id] unless {{ req.hdr(X-Request-Id) -m found }}
  http-request set-var(txn.request_id) req.hdr(X-Request-Id)
  http-after-response set-header X-Request-Id %[var(txn.request_id)] \
if {{ var(txn.request_id) -m found }}
  http-after-response set-header Connection close \
if {{ str(connections),map({routing_map}) close }}
  http-request return {returned(404, NOT_SERVED)} \
unless {{ path {" ".join(SERVED_PATHS)} }} or {{ path_reg '{SERVED_MODEL_PATH}' }}
  http-request deny deny_status 413 if {{ req.body_size gt {MAX_REQUEST_BYTES} }}
  http-request wait-for-body time {timeouts.body_seconds}s
  http-request return {returned(411, LENGTH_REQUIRED)} \
if {{ req.body_size gt 0 }} !{{ req.hdr(Content-Length) -m found }}
  http-request return {returned(503, NO_REPLICA, RETRY_SOON_SECONDS)} \
if !METH_POST {{ nbsrv({DESCRIBE}) eq 0 }}
  use_backend {DESCRIBE} if !METH_POST
  http-request set-priority-class int(1) if {{ req.hdr({LOAD_HEADER}) -m found }}
  http-request set-var(txn.max_queued) str(max_queued),map({routing_map})
  http-request set-var(txn.spread_queue) queue({SPREAD})
  use_backend {FULL} if \
{{ queue({CONCENTRATE}),add(txn.spread_queue),sub(txn.max_queued) ge 0 }}
  use_backend %[str(backend),map({routing_map})]
  default_backend {CONCENTRATE}

frontend relay
  bind unix@{run_dir / RELAY_SOCKET} mode 600
  http-request set-priority-class int(-1)
  use_backend %[str(backend),map({routing_map})]
  default_backend {CONCENTRATE}

backend {FULL}
  http-request return {returned(429, QUEUE_FULL, RETRY_LATER_SECONDS)}

{_balancing(settings, CONCENTRATE, "first")}
{_balancing(settings, SPREAD, "leastconn")}
backend {DESCRIBE}
  default-server maxconn {DESCRIBING_PER_REPLICA}
{_slots(settings, f"track {CONCENTRATE}/{{name}}")}
"""


def _balancing(settings: RouterSettings, name: Balance, algorithm: str) -> str:
    return f"""\
backend {name}
  balance {algorithm}
  option allbackups
  default-server check inter 1s fastinter 250ms downinter 250ms fall 3 rise 1 \
observe layer4 error-limit 1 on-error mark-down
{_slots(settings, "disabled")}
  server hold unix@{settings.run_dir / HOLD_SOCKET} id {HOLD_ID} no-check backup maxconn 1
"""


def _slots(settings: RouterSettings, options: str) -> str:
    host = settings.replica_host
    endpoint = f"[{host}]:1" if ":" in host else f"{host}:1"
    names = [slot_name(index) for index in range(MAX_REPLICAS_PER_PACK)]
    return _lines(
        f"server {name} {endpoint} id {number} {options.format(name=name)}"
        for number, name in enumerate(names, start=1)
    )


def _http_errors() -> Iterable[str]:
    for status, kind, message in (
        (400, "bad_request", "The request is not valid HTTP."),
        (408, "timeout", "The request was not sent in time."),
        (
            413,
            "request_too_large",
            f"The request body exceeds {MAX_REQUEST_BYTES} bytes: send a shorter prompt.",
        ),
        (500, "internal_error", "The router failed."),
        (502, "bad_gateway", "The replica ended before it answered. Try again."),
        (
            503,
            "service_unavailable",
            "No replica could take the request in time. Try again shortly.",
        ),
        (504, "timeout", f"The replica was silent for {RESPONSE_TIMEOUT_SECONDS} s."),
    ):
        retry_after_seconds = RETRY_SOON_SECONDS if status == 503 else None
        body = error_body(message, status, kind)
        yield f"http-error {returned(status, body, retry_after_seconds)}"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
