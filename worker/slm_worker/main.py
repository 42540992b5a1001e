"""Wires the agent of one pack, and serves until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import aiohttp
from aiohttp import web

from slm_worker.agent import Agent
from slm_worker.bringup import BringUp
from slm_worker.engine.factory import open_engine
from slm_worker.gpu.base import Device
from slm_worker.gpu.factory import open_device
from slm_worker.gpu.nvml_caller import NvmlCaller
from slm_worker.load import SaturatingLoad
from slm_worker.loading import CalibrationLoad
from slm_worker.logs import configure_logs
from slm_worker.model_files import look_out, read_footprint
from slm_worker.open_files import allow_open_files
from slm_worker.replicas.leftovers import RUN_DIR_PREFIX, claim, end_engines, remove_files
from slm_worker.replicas.parent import await_children_without_threads
from slm_worker.replicas.replica import EngineHost
from slm_worker.replicas.witness import StartWitness
from slm_worker.routing.router import Router
from slm_worker.server import make_app
from slm_worker.settings import AgentSettings, SettingsError, read_settings

EXIT_SETTINGS = 2
EXIT_PORT_TAKEN = 3

log = logging.getLogger("slm_worker")


def run() -> int:
    """Serve until SIGTERM or SIGINT, and return the process's exit code."""
    configure_logs()
    allow_open_files()
    await_children_without_threads()
    try:
        settings = read_settings(os.environ)
        with tempfile.TemporaryDirectory(prefix=RUN_DIR_PREFIX) as run_dir:
            return asyncio.run(_serve(settings, Path(run_dir)))
    except SettingsError as error:
        log.error("%s", error)
        return EXIT_SETTINGS


async def _serve(settings: AgentSettings, run_dir: Path) -> int:
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    # Connections to engines are not kept: one that the engine closes meanwhile would look like
    # an engine that does not answer.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
        agent = _make_agent(settings, run_dir, http)
        runner = web.AppRunner(make_app(agent, settings.token.current), handle_signals=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, settings.address, settings.agent_port).start()
        except OSError as error:
            log.error(
                "the API cannot listen on %s:%d: %s; end the process that does, or give this "
                "pack an address of its own",
                settings.address,
                settings.agent_port,
                error.strerror,
            )
            await runner.cleanup()
            return EXIT_PORT_TAKEN
        log.info("the API listens on %s:%d", settings.address, settings.agent_port)
        claim(run_dir, settings.pack_address)
        await end_engines(settings.pack_address)
        await agent.run(end)
        await runner.cleanup()
    return 0


def _make_agent(settings: AgentSettings, run_dir: Path, http: aiohttp.ClientSession) -> Agent:
    """Raises SettingsError."""
    config = settings.config
    host = f"[{settings.address}]" if ":" in settings.address else settings.address
    try:
        router = Router(
            address=settings.address,
            port=settings.router_port,
            replica_host=settings.engine_address,
            run_dir=run_dir / "router",
        )
    except ValueError as error:
        raise SettingsError(f"TMPDIR: {error}") from None

    nvml = NvmlCaller()

    async def open_own_device() -> Device:
        device = await open_device(config.gpu.kind, run_dir / "gpu", config.gpu.mps, nvml)
        await remove_files(settings.pack_address, run_dir)
        return device

    bring_up = BringUp(
        open_device=open_own_device,
        read_model=partial(read_footprint, config.model, config.engine),
        look_out=partial(look_out, config.model, config.engine),
        open_engine=partial(open_engine, config),
        router=router,
        clock=time.monotonic,
    )

    def make_host(ready: BringUp) -> EngineHost:
        if ready.engine is None or ready.device is None:
            raise RuntimeError("the bring-up is not complete")
        return EngineHost(
            engine=ready.engine,
            model_name=config.model.name,
            address=settings.engine_address,
            pack_address=settings.pack_address,
            run_dir=run_dir,
            cache_dir=settings.cache_dir,
            agent_env=os.environ,
            device=ready.device,
            witness=StartWitness(ready.device.read, ready.learn),
            http=http,
            clock=time.monotonic,
        )

    return Agent(
        agent_id=uuid4().hex,
        version=version("slm-operator"),
        gpu=config.gpu,
        bring_up=bring_up,
        make_host=make_host,
        load=CalibrationLoad(
            lambda load: SaturatingLoad(
                url=f"http://{host}:{settings.router_port}",
                model_name=config.model.name,
                prompt_tokens=load.prompt_tokens,
                output_tokens=load.output_tokens,
                longest_tokens=bring_up.footprint.max_model_len if bring_up.footprint else None,
                vocabulary=bring_up.footprint.runtime.vocab if bring_up.footprint else None,
                rng=random.Random(),  # noqa: S311 - prompts need no secrecy
            )
        ),
        clock=time.monotonic,
    )
