"""What ``slmctl local`` needs of this host: programs, a GPU, ports."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slm_operator.cli.local.request import LocalError
from slm_worker.wire import AGENT_PORT, ROUTER_PORT

ADDRESS = "127.0.0.1"
WORKER_MODULES = ("psutil", "pynvml")
"""What the agent needs besides the operator's own packages."""
NVML_PATIENCE_SECONDS = 30.0
"""Without persistence mode the driver wakes each GPU first, seconds apiece."""
ANY = 0
"""The port for which the kernel gives a free one."""
CLAIM_ATTEMPTS = 20
_ASK_NVML = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"


@dataclass(frozen=True)
class Ports:
    agent: int
    router: int


def search_path() -> str:
    """PATH for the agent: what is installed beside this program comes first."""
    own = str(Path(sys.executable).parent)
    return os.pathsep.join([own, os.environ.get("PATH", os.defpath)])


def require_programs(simulated: bool) -> None:
    """Raises LocalError for the first that is missing."""
    if shutil.which("haproxy", path=search_path()) is None:
        raise LocalError(
            "haproxy is not on PATH, and replicas are routed to by it: install HAProxy 2.6 or "
            "later, for example by `apt-get install haproxy`"
        )
    missing = [name for name in WORKER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise LocalError(
            f"the pack's agent lacks {', '.join(missing)}: install slm-operator[operator,worker]"
        )
    if not simulated and shutil.which("vllm", path=search_path()) is None:
        raise LocalError(
            "vllm is not on PATH: install it (`pip install vllm`, or slm-operator[vllm]), put its "
            "folder on PATH, or take a look without it by --gpu simulated opt-1.3b"
        )


def nvidia_answers() -> bool:
    """Whether the driver's library shows a GPU. Asked by a process that can be given up on: a
    driver in trouble may not answer at all."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK_NVML],
            capture_output=True,
            timeout=NVML_PATIENCE_SECONDS,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0 and int(asked.stdout) > 0


@contextlib.contextmanager
def claimed_ports(router: int | None) -> Iterator[Ports]:
    """The well-known ports where they are free, otherwise others; ``router`` where it is given.
    Raises LocalError when that one is taken.

    Each port is claimed by its UDP namesake: the agent takes it only seconds later, and another
    run that begins at the same moment must not choose the same.
    """
    with contextlib.ExitStack() as claims:
        if router is None:
            router = claims.enter_context(_claim(ROUTER_PORT))
        elif not _free(router):
            raise LocalError(
                f"--port {router} of {ADDRESS} is in use: end the process that listens there, or "
                "leave out --port for a free one"
            )
        usual = AGENT_PORT if router != AGENT_PORT else ANY
        yield Ports(agent=claims.enter_context(_claim(usual)), router=router)


@contextlib.contextmanager
def _claim(usual: int) -> Iterator[int]:
    """``usual`` if nobody has it, or another port."""
    for port in (usual, *[ANY] * CLAIM_ATTEMPTS):
        with contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)) as claim:
            try:
                claim.bind((ADDRESS, port))
            except OSError:
                continue
            found: int = claim.getsockname()[1]
            if _free(found):
                yield found
                return
    raise LocalError(f"no port of {ADDRESS} is free: end processes that listen there")


def _free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        # As servers do, so that connections that end do not count as a listener.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
        return True
