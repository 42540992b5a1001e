"""kubectl and slmctl of a stack's administrator."""

from __future__ import annotations

import asyncio
import sys

from slm_dev.controlplane import find_or_build
from slm_dev.stack import Stack


async def kubectl(stack: Stack, *arguments: str, refused: bool = False) -> str:
    """Standard output of a kubectl command of the administrator. ``refused``: it shall fail."""
    binaries = await asyncio.to_thread(find_or_build, print)
    command = (str(binaries.kubectl), f"--kubeconfig={stack.kubeconfig}", *arguments)
    return await _output(*command, refused=refused)


async def slmctl(stack: Stack, *arguments: str) -> str:
    """Standard output of an slmctl command of the administrator."""
    main = "from slm_operator.cli.app import main; main()"
    where = ("--namespace=default", f"--kubeconfig={stack.kubeconfig}")
    return await _output(sys.executable, "-c", main, *arguments, *where)


async def _output(*command: str, refused: bool = False) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert (process.returncode != 0) is refused, errors.decode()
    return output.decode()
