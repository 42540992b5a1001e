"""A simulated vLLM: the same HTTP, metrics and behaviour under SIGTERM, on a simulated GPU.

``python -m slm_worker.engine.simulated.server --host H --port P --model URI
--served-model-name N --max-num-seqs S`` and the options in ``startup``. Every model runs
at the measured pace of OPT-1.3B; only memory follows the model's own size.

SIGTERM: requests in flight are finished, new ones get 500, ``/health`` stays 200, exit code 0 - as
vLLM with ``--shutdown-timeout``. A second SIGTERM ends at once. Other exit codes: ``errors``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys

from aiohttp import web

from slm_worker.engine.simulated.api import SimulatedApi
from slm_worker.engine.simulated.errors import EXIT_CODES, EXIT_TOLD_TWICE, EngineError
from slm_worker.engine.simulated.loop import EngineLoop
from slm_worker.engine.simulated.metrics import EngineMetrics
from slm_worker.engine.simulated.scheduler import Scheduler
from slm_worker.engine.simulated.startup import Arguments, attach, parse_arguments, resolve_model
from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE, DaemonConnection
from slm_worker.planning.footprint import ModelFootprint

RESPONSE_TIMEOUT_SECONDS = 5.0
"""How long clients have to read the last answers before the process ends."""
LISTEN_BACKLOG = 4096

log = logging.getLogger("simulated-engine")


def main() -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        arguments = parse_arguments(sys.argv[1:])
        listener = _bind(arguments.host, arguments.port)
        footprint = resolve_model(arguments)
        asyncio.run(_serve(arguments, footprint, listener))
    except EngineError as error:
        print(error.line, file=sys.stderr, flush=True)
        sys.exit(EXIT_CODES[error.reason])


def _bind(host: str, port: int) -> socket.socket:
    """Takes the port early, as vLLM does, but accepts nothing before the model is loaded."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise _port_taken(host, port, error) from None
    return listener


def _port_taken(host: str, port: int, error: OSError) -> EngineError:
    return EngineError("PortTaken", f"{host}:{port}: {error.strerror}: use another port")


async def _serve(arguments: Arguments, footprint: ModelFootprint, listener: socket.socket) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _stop_or_exit, stop)
    gpu, kv_tokens = await attach(arguments, footprint, os.environ.get(SOCKET_VARIABLE))
    log.info(
        "SIMULATED engine: %s runs at the measured pace of OPT-1.3B; %d sequences, "
        "KV cache of %d tokens; loading",
        arguments.model,
        arguments.max_num_seqs,
        kv_tokens,
    )
    await asyncio.sleep(arguments.start_seconds)
    scheduler = Scheduler(max_num_seqs=arguments.max_num_seqs, kv_capacity_tokens=kv_tokens)
    metrics = EngineMetrics()
    loop = _engine_loop(scheduler, metrics, gpu)
    api = SimulatedApi(
        loop,
        scheduler,
        metrics,
        model_name=arguments.served_model_name,
        max_model_len=footprint.max_model_len,
    )
    runner = web.AppRunner(
        api.application(),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=RESPONSE_TIMEOUT_SECONDS,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=LISTEN_BACKLOG).start()
    except OSError as error:
        raise _port_taken(arguments.host, arguments.port, error) from None
    log.info("SIMULATED engine: serving on %s:%d", *listener.getsockname()[:2])
    await _until_stopped(loop, api, stop)
    await runner.cleanup()
    gpu.close()


async def _until_stopped(loop: EngineLoop, api: SimulatedApi, stop: asyncio.Event) -> None:
    """Runs the engine until it is told to stop and has finished what it had. Raises EngineError."""
    heartbeat = asyncio.create_task(loop.run())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({heartbeat, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if stop.is_set():
        api.draining = True
        log.info("SIMULATED engine: finishing the requests in flight")
        drained = asyncio.create_task(loop.drained())
        await asyncio.wait({heartbeat, drained}, return_when=asyncio.FIRST_COMPLETED)
    if not heartbeat.done():
        heartbeat.cancel()
        return
    try:
        heartbeat.result()
    except DeviceError as error:
        raise EngineError("DeviceLost", str(error)) from None


def _engine_loop(scheduler: Scheduler, metrics: EngineMetrics, gpu: DaemonConnection) -> EngineLoop:
    async def step(running: int) -> float:
        answer = await gpu.request("step", running=running)
        return float(answer["step_seconds"])

    clock = asyncio.get_running_loop().time
    return EngineLoop(scheduler, metrics, step=step, clock=clock, sleep=asyncio.sleep)


def _stop_or_exit(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(EXIT_TOLD_TWICE)
    stop.set()


if __name__ == "__main__":
    main()
