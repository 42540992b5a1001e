"""A simulated vLLM: the same HTTP, metrics and behaviour under SIGTERM, on a simulated GPU.

``python -m slm_worker.engine.simulated.server --host H --port P --model URI
--served-model-name N --max-num-seqs S`` and the options in ``startup``.

SIGTERM: requests in flight are finished, new ones get 500, ``/health`` stays 200, exit code 0 - as
vLLM with ``--shutdown-timeout``. A second SIGTERM ends at once. Other exit codes: ``errors``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import sys

from aiohttp import web

from slm_worker.engine.simulated.api import SimulatedApi
from slm_worker.engine.simulated.errors import (
    EXIT_CODES,
    EXIT_FAILED,
    EXIT_TOLD_TWICE,
    DeviceFaultError,
    EngineError,
    fault_of,
)
from slm_worker.engine.simulated.loop import EngineLoop
from slm_worker.engine.simulated.metrics import EngineMetrics, Exposition
from slm_worker.engine.simulated.scheduler import Scheduler
from slm_worker.engine.simulated.sleep import SleepMode
from slm_worker.engine.simulated.startup import (
    Arguments,
    Attached,
    Model,
    attach,
    parse_arguments,
    resolve_model,
)
from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE, DaemonConnection
from slm_worker.gpu.simulated.state import Step

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
        model = resolve_model(arguments)
        asyncio.run(_live(arguments, model, listener))
    except EngineError as error:
        print(error.line, file=sys.stderr, flush=True)
        sys.exit(EXIT_CODES[error.reason])
    except DeviceFaultError as error:
        print(error.output, file=sys.stderr, end="", flush=True)
        if error.crash:
            _crash()
        sys.exit(EXIT_FAILED)


def _crash() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    signal.raise_signal(signal.SIGSEGV)


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


async def _live(arguments: Arguments, model: Model, listener: socket.socket) -> None:
    """Serves until told to stop, or until the device ends it: then DeviceFaultError."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _stop_or_exit, stop)
    attached = await attach(arguments, model, os.environ.get(SOCKET_VARIABLE))
    serving = asyncio.create_task(_serve(arguments, model, attached, listener, stop))
    ending = asyncio.create_task(attached.gpu.ending())
    await asyncio.wait({serving, ending}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not serving.done():
            raise fault_of(ending.result())
        serving.result()
    except DeviceError as error:
        raise EngineError("DeviceLost", str(error)) from None
    finally:
        for task in (serving, ending):
            task.cancel()
        attached.gpu.close()


async def _serve(
    arguments: Arguments,
    model: Model,
    attached: Attached,
    listener: socket.socket,
    stop: asyncio.Event,
) -> None:
    log.info(
        "SIMULATED engine: answers for %s at the simulated GPU's pace; %d sequences, "
        "KV cache of %d tokens; loading",
        arguments.model,
        arguments.max_num_seqs,
        attached.kv_tokens,
    )
    await asyncio.sleep(arguments.start_seconds + attached.delay_seconds)
    scheduler = Scheduler(
        max_num_seqs=arguments.max_num_seqs, kv_capacity_tokens=attached.kv_tokens
    )
    metrics = EngineMetrics()
    loop = _engine_loop(scheduler, metrics, attached.gpu)
    api = SimulatedApi(
        loop,
        scheduler,
        metrics,
        exposition=Exposition(arguments.served_model_name, arguments.metrics_names),
        max_model_len=model.footprint.max_model_len,
        sleep_mode=_sleep_mode(loop, attached) if arguments.enable_sleep_mode else None,
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


async def _until_stopped(loop: EngineLoop, api: SimulatedApi, stop: asyncio.Event) -> None:
    """Runs the engine until it is told to stop and has finished what it had. Raises DeviceError."""
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
    heartbeat.result()


def _engine_loop(scheduler: Scheduler, metrics: EngineMetrics, gpu: DaemonConnection) -> EngineLoop:
    async def step(running: int) -> Step:
        answer = await gpu.request("step", running=running)
        return Step(answer["step_seconds"], answer["stalled"], answer["kv_share"])

    clock = asyncio.get_running_loop().time
    return EngineLoop(scheduler, metrics, step=step, clock=clock, sleep=asyncio.sleep)


def _sleep_mode(loop: EngineLoop, attached: Attached) -> SleepMode:
    async def resize(memory_bytes: int) -> None:
        await attached.gpu.request("resize", memory_bytes=memory_bytes)

    return SleepMode(loop, attached.memory, resize=resize, wait=asyncio.sleep)


def _stop_or_exit(stop: asyncio.Event) -> None:
    if stop.is_set():
        os._exit(EXIT_TOLD_TWICE)
    stop.set()


if __name__ == "__main__":
    main()
