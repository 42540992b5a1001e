"""The simulated GPU as a process of its own, as a driver is one for real devices.

``python -m slm_worker.gpu.simulated.daemon --socket PATH`` listens on a unix socket; ``protocol``
has the lines that it understands. When a connection closes, all that its engine held is free at
once. The daemon ends when its standard input closes, so it cannot outlive the process that
started it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket as sockets
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

from slm_worker.gpu.simulated.pace import DEFAULT_GPU, Paces
from slm_worker.gpu.simulated.protocol import MAX_LINE_BYTES, Server
from slm_worker.gpu.simulated.state import SimulatedGpu
from slm_worker.gpu.simulated.state_file import keep_written
from slm_worker.planning.catalogue import gpus

CLOSE_TIMEOUT_SECONDS = 2.0

_PEER_CREDENTIALS = struct.Struct("3i")
"""Linux's struct ucred: process, user and group."""


class Daemon:
    """Serves one simulated GPU on a unix socket until told to stop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._count = 0
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._served: set[asyncio.Task[None]] = set()

    async def serve(self, socket: Path, stop: asyncio.Event) -> None:
        umask = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(
                self._connected, path=socket, limit=MAX_LINE_BYTES
            )
        finally:
            os.umask(umask)
        try:
            await stop.wait()
        finally:
            server.close()
            for writer in self._writers.values():
                writer.close()
            if self._served:
                await asyncio.wait(self._served, timeout=CLOSE_TIMEOUT_SECONDS)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        number, pid = self._count, _peer_pid(writer)
        self._writers[number] = writer
        own = asyncio.current_task()
        assert own is not None  # noqa: S101 - a coroutine runs in a task
        self._served.add(own)
        own.add_done_callback(self._served.discard)
        try:
            while line := await reader.readline():
                reply = self._server.reply(number, pid, line)
                _send(writer, reply.answer)
                for other, ending in reply.endings.items():
                    _send(self._writers[other], {"end": ending.value})
                await writer.drain()
        except ValueError:  # readline's word for a line beyond the limit
            _send(writer, {"reason": "InvalidRequest", "error": "line too long"})
        except ConnectionError:
            pass  # the engine is gone, which is what closing means
        finally:
            del self._writers[number]
            self._server.gpu.detach(number)
            writer.close()


def _send(writer: asyncio.StreamWriter, message: dict[str, object]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")


def _peer_pid(writer: asyncio.StreamWriter) -> int:
    connection = writer.get_extra_info("socket")
    credentials = connection.getsockopt(
        sockets.SOL_SOCKET, sockets.SO_PEERCRED, _PEER_CREDENTIALS.size
    )
    return int(_PEER_CREDENTIALS.unpack(credentials)[0])


async def _run(arguments: argparse.Namespace) -> None:
    described = gpus()[arguments.gpu]
    gpu = SimulatedGpu(
        memory_bytes=arguments.memory_bytes or described.memory_bytes,
        idle_watts=described.idle_watts,
        clock=time.monotonic,
        rng=random.Random(arguments.seed),  # noqa: S311 - noise, not a secret
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(sys.stdin.fileno(), _stop_at_end_of_input, stop)
    daemon = Daemon(Server(gpu, f"Simulated {described.title}", Paces(described).of))
    tasks = [asyncio.create_task(daemon.serve(arguments.socket, stop))]
    if arguments.state_file is not None:
        tasks.append(asyncio.create_task(keep_written(gpu, arguments.state_file)))
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    for task in done:
        task.result()


def _stop_at_end_of_input(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulated.daemon", description="A simulated GPU.")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen on")
    parser.add_argument("--gpu", choices=list(gpus()), default=DEFAULT_GPU)
    parser.add_argument("--memory-bytes", type=int, help="instead of the GPU's own")
    parser.add_argument("--seed", type=int, default=0, help="of the noise on step times")
    parser.add_argument("--state-file", type=Path, help="where the instruments are written, 10 Hz")
    arguments = parser.parse_args()
    if arguments.memory_bytes is not None and arguments.memory_bytes <= 0:
        parser.error(f"--memory-bytes {arguments.memory_bytes}: use a positive number")
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(_run(arguments))
        except OSError as error:
            parser.exit(1, f"error: FileUnusable: {error}\n")
        finally:
            arguments.socket.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
