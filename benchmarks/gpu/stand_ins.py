"""What a GPU machine has, without one: libnvidia-ml, the MPS programs and vLLM, played below the
agent's real code. One simulated GPU feeds all of them, and every figure of it is simulated."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.vllm_standin import write_program
from slm_worker.gpu.mps_control import CONTROL
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE
from slm_worker.planning.catalogue import gpus

FIXTURES = Path(__file__).resolve().parents[2] / "tests" / "fixtures"
LIBRARY = "libnvidia-ml.so.1"
GPU = "h200-sxm-141gb"
START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class StandIns:
    """``environment`` is what lets an agent find them."""

    environment: Mapping[str, str]
    script: Path
    """Of the driver's library; tests/fixtures/nvml says what may stand in it."""

    def hang_driver(self, hangs: bool) -> None:
        """From now on no call of NVML returns, or they do again."""
        lines = [line for line in self.script.read_text().splitlines() if line != "hang 1"]
        fresh = self.script.with_name("script.new")
        fresh.write_text("\n".join([*lines, *(["hang 1"] if hangs else [])]) + "\n")
        fresh.replace(self.script)

    def fault_mps(self, reason: str) -> None:
        """A fatal fault: the daemon ends every client, and names ``reason`` in its server's log.

        Raises CalledProcessError where no daemon runs.
        """
        settings = Path(self.environment["MPS_STANDIN"])
        pipe = Path(settings.with_name(f"{settings.name}.pipe").read_text())
        directories = {
            "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(pipe.parent / "log"),
        }
        program = shutil.which(CONTROL, path=self.environment["PATH"]) or CONTROL
        subprocess.run(
            [program],
            input=f"standin-fault {reason}\n".encode(),
            env={**os.environ, **self.environment, **directories},
            stdout=subprocess.DEVNULL,
            check=True,
        )


@asynccontextmanager
async def stand_ins(gpu: str = GPU, start_seconds: float = 0.0) -> AsyncIterator[StandIns]:
    """A machine with one GPU, played. Needs a C compiler.

    Raises CalledProcessError where the library does not compile, TimeoutError where the simulated
    GPU does not start.
    """
    with tempfile.TemporaryDirectory(prefix="slm-gpu-") as name:
        folder = Path(name)
        socket, state, script = folder / "gpu.sock", folder / "state", folder / "script"
        script.write_text(f"name SIMULATED {gpus()[gpu].title}\ndriver_version 0.0 (simulated)\n")
        programs = _write_mps_programs(folder / "programs")
        write_program(programs, {SOCKET_VARIABLE: str(socket)}, start_seconds)
        daemon = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "slm_worker.gpu.simulated.daemon", "--socket", str(socket)),
            *("--gpu", gpu, "--state-file", str(state)),
            stdin=asyncio.subprocess.PIPE,
        )
        try:
            await _until_there(socket, state)
            environment = {
                "LD_LIBRARY_PATH": str(_build_library(folder)),
                "SLM_TEST_NVML": str(script),
                "SLM_TEST_NVML_STATE": str(state),
                "MPS_STANDIN": str(folder / "mps.json"),
                "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            }
            yield StandIns(environment, script)
        finally:
            await _end(daemon)


def _build_library(folder: Path) -> Path:
    target = folder / "lib" / LIBRARY
    target.parent.mkdir()
    source = FIXTURES / "nvml" / "nvml.c"
    command = ["cc", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", str(target), str(source)], check=True)
    return target.parent


def _write_mps_programs(folder: Path) -> Path:
    """With this interpreter: whatever is named python3 on PATH may be a script."""
    shutil.copytree(FIXTURES / "mps", folder)
    for program in folder.iterdir():
        _, _, text = program.read_text().partition("\n")
        program.write_text(f"#!{sys.executable} -IS\n{text}")
        program.chmod(0o755)
    return folder


async def _until_there(*files: Path) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not all(file.exists() for file in files):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the simulated GPU did not make {files}")
        await asyncio.sleep(0.05)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
