"""The router's HAProxy configuration as text. Pure.

Written once per start and never reloaded: every replica slot is declared beforehand, in
maintenance, and moved by the runtime API. How the parts play together:

- ``balance first`` with a ``maxconn`` per slot concentrates requests on the first replicas, since a
  full batch reads the weights once, spills over to the next, and queues here when all are full.
- One thread: HAProxy 2.6 can lose a wake-up of its queue between threads, and one thread carries
  far more than one GPU's requests.
- Connections to engines are kept and reused, which spares a third of a millisecond per request.
  Engines never close an idle one (see :class:`slm_worker.engine.base.Engine`), since a request
  already on its way to a closing connection would be lost.
- A slot whose connection is refused is marked down at once and probed until it listens again, so
  that requests not yet sent go elsewhere before the agent knows of the death.
- The ``hold`` slot is a backup: HAProxy uses it only when no replica takes requests. It takes one
  request and keeps the others queued here instead of refused; see :mod:`slm_worker.routing.holder`.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slm_worker.wire import MAX_REPLICAS_PER_PACK

MAX_REQUEST_BYTES = 16 * 1024 * 1024
"""Largest accepted request body; a prompt of 131,072 tokens is about 1 MiB of JSON."""

CONNECT_TIMEOUT_MILLISECONDS = 250
"""Loopback connects in microseconds unless the engine's accept queue is full. Also the pause
between two tries at the same replica."""
CONNECT_TRIES = 20
"""With the pause above: five seconds for the agent to take a dead lone replica out."""
QUEUE_TIMEOUT_SECONDS = 600
"""Longest wait for a free slot: the default patience of OpenAI's clients."""
RESPONSE_TIMEOUT_SECONDS = 3600
"""Longest silence of an engine or a client: a completion that is not streamed is silent until its
last token, and 131,072 tokens at 40 tokens/s take almost an hour."""
REQUEST_TIMEOUT_SECONDS = 60
"""Longest time for a client to send its headers and the first 16 KiB of its body."""
KEEP_ALIVE_SECONDS = 120
"""How long an idle client connection stays open: longer than usual proxies keep theirs, so that
the client is the one who closes."""
MAX_FILE_DESCRIPTORS = 65_536
"""Bounds memory: about 32,000 connections at two descriptors each."""

SERVED_PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/v1/responses",
    "/tokenize",
    "/detokenize",
    "/health",
    "/ping",
    "/version",
)
"""What clients may ask for. Engines also serve paths that change or disclose them: /metrics,
/sleep, /collective_rpc, /v1/load_lora_adapter and more with each release."""
SERVED_MODEL_PATH = "^/v1/models(/[A-Za-z0-9][A-Za-z0-9._-]*(%2[Ff][A-Za-z0-9][A-Za-z0-9._-]*)*)+$"
"""A model by its name, whose slash may be escaped. No part begins with a dot, so none is a step
up."""

LOAD_HEADER = "X-SLM-Load"
"""Marks requests of the calibration load; users' requests overtake them in the queue."""

STATS_SOCKET = "router.sock"
RELAY_SOCKET = "relay.sock"
HOLD_SOCKET = "hold.sock"
CONFIG_FILE = "haproxy.cfg"

MAX_RUN_DIR_LENGTH = 80
"""A unix socket's path holds at most 107 bytes, and HAProxy appends a suffix while it binds."""


@dataclass(frozen=True)
class RouterSettings:
    """Where the router listens, where replicas are, and the private directory of its sockets."""

    address: str
    port: int
    replica_host: str
    run_dir: Path

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


def max_in_flight(max_num_seqs: int) -> int:
    """How many requests a replica that batches ``max_num_seqs`` sequences is sent at once.

    A little more than its batch (1/16, at least 2): when a sequence ends, the next one already
    waits in the engine and takes its place in the same step, while the router's answer would come
    a round trip later. The rest waits at the router, where it can still go to another replica.
    """
    return max_num_seqs + max(2, max_num_seqs // 16)


def slot_name(index: int) -> str:
    """The name of a replica's server in the backend ``engines``."""
    if not 0 <= index < MAX_REPLICAS_PER_PACK:
        raise ValueError(f"replica index {index} is not in 0..{MAX_REPLICAS_PER_PACK - 1}")
    return f"r{index}"


def error_body(message: str, status: int, kind: str) -> str:
    """An error in the shape that OpenAI's clients expect."""
    error = {"message": message, "type": kind, "param": None, "code": status}
    return json.dumps({"error": error})


NO_REPLICA = error_body(
    "No replica of the model is ready yet. Try again shortly.", 503, "service_unavailable"
)

NOT_SERVED = error_body(
    f"This path is not served. There are {', '.join(SERVED_PATHS)}.", 404, "not_found"
)
LENGTH_REQUIRED = error_body(
    "The request has a body without a Content-Length: send it in one piece, not chunked.",
    411,
    "length_required",
)

_ERRORS = (
    (400, "bad_request", "The request is not valid HTTP."),
    (408, "timeout", f"The request was not sent within {REQUEST_TIMEOUT_SECONDS} s."),
    (
        413,
        "request_too_large",
        f"The request body exceeds {MAX_REQUEST_BYTES} bytes: send a shorter prompt.",
    ),
    (500, "internal_error", "The router failed."),
    (502, "bad_gateway", "The replica ended before it answered. Try again."),
    (503, "service_unavailable", "No replica could take the request in time. Try again shortly."),
    (504, "timeout", f"The replica was silent for {RESPONSE_TIMEOUT_SECONDS} s."),
)


def render(settings: RouterSettings) -> str:
    """The text of ``haproxy.cfg``."""
    run_dir = settings.run_dir
    slots = [slot_name(index) for index in range(MAX_REPLICAS_PER_PACK)]
    return f"""\
global
  nbthread 1
  noreuseport
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
  timeout queue {QUEUE_TIMEOUT_SECONDS}s
  timeout server {RESPONSE_TIMEOUT_SECONDS}s
  timeout client {RESPONSE_TIMEOUT_SECONDS}s
  timeout http-request {REQUEST_TIMEOUT_SECONDS}s
  timeout http-keep-alive {KEEP_ALIVE_SECONDS}s
{_lines(_http_error(*error) for error in _ERRORS)}

frontend router
  bind {_endpoint(settings.address, settings.port)} backlog 4096
  unique-id-format %[uuid()]
  http-request set-header X-Request-Id %[unique-id] unless {{ req.hdr(X-Request-Id) -m found }}
  http-request set-var(txn.request_id) req.hdr(X-Request-Id)
  http-after-response set-header X-Request-Id %[var(txn.request_id)] \
if {{ var(txn.request_id) -m found }}
  http-request {_return(404, NOT_SERVED)} \
unless {{ path {" ".join(SERVED_PATHS)} }} or {{ path_reg '{SERVED_MODEL_PATH}' }}
  http-request deny deny_status 413 if {{ req.body_size gt {MAX_REQUEST_BYTES} }}
  http-request wait-for-body time {REQUEST_TIMEOUT_SECONDS}s
  http-request {_return(411, LENGTH_REQUIRED)} \
if {{ req.body_size gt 0 }} !{{ req.hdr(Content-Length) -m found }}
  http-request {_return(503, NO_REPLICA)} hdr Retry-After 1 \
if {{ path /health /v1/models }} {{ nbsrv(rotation) eq 0 }}
  http-request set-priority-class int(1) if {{ req.hdr({LOAD_HEADER}) -m found }}
  default_backend engines

frontend relay
  bind unix@{run_dir / RELAY_SOCKET} mode 600
  http-request set-priority-class int(-1)
  default_backend engines

backend engines
  balance first
  option allbackups
  default-server check inter 1s fastinter 250ms downinter 250ms fall 3 rise 1 \
observe layer4 error-limit 1 on-error mark-down
{
        _lines(
            f"server {name} {_endpoint(settings.replica_host, 1)} id {number} disabled"
            for number, name in enumerate(slots, start=1)
        )
    }
  server hold unix@{run_dir / HOLD_SOCKET} id 1000 no-check backup maxconn 1

backend rotation
{
        _lines(
            f"server {name} {_endpoint(settings.replica_host, 1)} track engines/{name}"
            for name in slots
        )
    }
"""


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


def _endpoint(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _http_error(status: int, kind: str, message: str) -> str:
    retry = " hdr Retry-After 1" if status == 503 else ""
    return f"http-error {_answer(status, error_body(message, status, kind))}{retry}"


def _return(status: int, body: str) -> str:
    return f"return {_answer(status, body)}"


def _answer(status: int, body: str) -> str:
    return f"status {status} content-type application/json string '{body}'"
