"""The simulated GPU as a process of its own, as a driver is one for real devices.

``python -m slm_worker.gpu.simulated.daemon --socket PATH`` listens on a unix socket for one JSON
object a line, and answers each with one:

- ``{"op": "read"}`` -> energy_millijoules, power_watts, memory_used_bytes, memory_bytes, name
- ``{"op": "attach", "memory_bytes": N}`` -> ``{}``: the connection is an engine from now on
- ``{"op": "step", "running": B}`` -> step_seconds; 0 sequences end the engine's activity

A refusal is ``{"error": text, "reason": OutOfMemory or InvalidRequest}``. When a connection
closes, all that its engine held is free at once. The daemon ends when its standard input closes,
so it cannot outlive the process that started it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from slm_worker.gpu.curves import opt_1_3b_on_h100
from slm_worker.gpu.simulated.protocol import MAX_LINE_BYTES, answer
from slm_worker.gpu.simulated.state import DEFAULT_MEMORY_BYTES, SimulatedGpu


class Daemon:
    """Serves one simulated GPU on a unix socket until told to stop."""

    def __init__(self, gpu: SimulatedGpu) -> None:
        self._gpu = gpu
        self._connections = 0

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

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        engine = self._connections
        try:
            while line := await reader.readline():
                writer.write(json.dumps(answer(self._gpu, engine, line)).encode() + b"\n")
                await writer.drain()
        except ValueError:  # readline's word for a line beyond the limit
            writer.write(b'{"reason": "InvalidRequest", "error": "line too long"}\n')
        except ConnectionError:
            pass  # the engine is gone, which is what closing means
        finally:
            self._gpu.detach(engine)
            writer.close()


async def _run(socket: Path, memory_bytes: int, seed: int) -> None:
    gpu = SimulatedGpu(
        opt_1_3b_on_h100(),
        memory_bytes=memory_bytes,
        clock=time.monotonic,
        rng=random.Random(seed),  # noqa: S311 - noise, not a secret
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_reader(sys.stdin.fileno(), _stop_at_end_of_input, stop)
    await Daemon(gpu).serve(socket, stop)


def _stop_at_end_of_input(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def main() -> None:
    parser = argparse.ArgumentParser(prog="simulated_daemon", description="A simulated GPU.")
    parser.add_argument("--socket", type=Path, required=True, help="unix socket to listen on")
    parser.add_argument("--memory-bytes", type=int, default=DEFAULT_MEMORY_BYTES)
    parser.add_argument("--seed", type=int, default=0, help="of the noise on step times")
    arguments = parser.parse_args()
    if arguments.memory_bytes <= 0:
        parser.error(f"--memory-bytes {arguments.memory_bytes}: use a positive number")
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(_run(arguments.socket, arguments.memory_bytes, arguments.seed))
        except OSError as error:
            parser.exit(1, f"error: SocketUnusable: {arguments.socket}: {error}\n")
        finally:
            arguments.socket.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
