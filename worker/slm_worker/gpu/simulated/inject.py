"""Injects faults into a running simulated GPU.

From Python::

    await inject(socket, Injection(kind=FaultKind.HANG, pid=4711, seconds=30))

From a shell: ``python -m slm_worker.gpu.simulated.inject --socket PATH Hang --pid 4711 --seconds
30``; without ``--socket`` the environment names it, as for engines. ``faults`` says what each kind
does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from pydantic import ValidationError

from slm_worker.gpu.base import DeviceError
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE, ask
from slm_worker.gpu.simulated.faults import FaultKind, Injection


async def inject(socket: Path, injection: Injection) -> list[int]:
    """The process ids of the engines that end by it.

    Raises DeviceRefusedError (no engine has that pid) and DeviceError (the GPU does not answer).
    """
    fault = injection.model_dump(mode="json", exclude_none=True)
    answer = await ask(socket, "inject", fault=fault)
    return [int(pid) for pid in answer["ended_pids"]]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="simulated.inject", description="Injects a fault into a simulated GPU."
    )
    parser.add_argument("kind", choices=[kind.value for kind in FaultKind])
    parser.add_argument("--socket", type=Path, default=os.environ.get(SOCKET_VARIABLE))
    parser.add_argument("--pid", type=int, help="of the engine; without it every one")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--starts", type=int, help="how many starts are affected")
    parser.add_argument("--kv-share", type=float, help="of the KV cache that is left")
    arguments = vars(parser.parse_args())
    socket = arguments.pop("socket")
    if socket is None:
        parser.error(f"--socket: name the daemon's socket, or set {SOCKET_VARIABLE}")
    try:
        ended = asyncio.run(inject(Path(socket), Injection(**arguments)))
    except ValidationError as error:
        parser.error(error.errors(include_url=False)[0]["msg"])
    except DeviceError as error:
        sys.exit(f"error: {error}")
    print("ended:", *(map(str, ended) if ended else ["nobody"]))


if __name__ == "__main__":
    main()
