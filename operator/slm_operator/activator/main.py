"""The options of `slm-activator`, and its run until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import Annotated

import typer

from slm_operator.activator.gatekeeper import Limits
from slm_operator.activator.server import Activator, Settings
from slm_operator.activator.wire import CONTROL_PORT, TOKEN_LENGTH, TOKEN_VARIABLE
from slm_worker.open_files import allow_open_files

LIMITS = Limits()
MEBIBYTE = 1024 * 1024


async def run(settings: Settings) -> None:
    """Until SIGTERM. Raises OSError when the control port is taken."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with Activator(settings):
        await told.wait()


def start(
    address: Annotated[
        str,
        typer.Option(help="Where all ports are opened. [default: every address, IPv4 and IPv6]"),
    ] = "",  # requests come to the Pod's address, of whatever family the cluster gave it
    control_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Where the operator speaks to it.")
    ] = CONTROL_PORT,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Requests of one service that may wait.")
    ] = LIMITS.requests,
    max_mebibytes: Annotated[
        int,
        typer.Option(
            min=1, help="Of the bodies of one service's requests that wait or are being sent."
        ),
    ] = LIMITS.bytes // MEBIBYTE,
    total_mebibytes: Annotated[
        int, typer.Option(min=1, help="Of the bodies of all requests that wait or are being sent.")
    ] = Settings.total_bytes // MEBIBYTE,
    max_seconds: Annotated[
        float, typer.Option(min=1, help="Longest that a request waits for a pack.")
    ] = LIMITS.seconds,
) -> None:
    """Holds the requests of services without a pack until the operator has started one."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    allow_open_files()
    token = os.environ.get(TOKEN_VARIABLE, "")
    if len(token) < TOKEN_LENGTH:
        raise typer.BadParameter(
            f"{TOKEN_VARIABLE} has {len(token)} characters, at least {TOKEN_LENGTH} are needed: "
            "set it to the random text that the operator has in the same variable"
        )
    limits = Limits(max_requests, max_mebibytes * MEBIBYTE, max_seconds)
    settings = Settings(token, address, control_port, limits, total_mebibytes * MEBIBYTE)
    try:
        asyncio.run(run(settings))
    except OSError as error:
        raise typer.BadParameter(f"--control-port {control_port}: {error}") from error
