"""Builds the control plane programs from the Go module beside this file, once per content."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

OLDEST_GO = (1, 24)
_MODULE = Path(__file__).parent / "gomod"
_SOURCES = ("go.mod", "go.sum", "main.go")
_KUBERNETES_VERSION = "v1.34.4"
# Unstamped, the API server calls itself v0.0.0-master, and clients refuse to talk to it.
_STAMPS = {
    "k8s.io/component-base/version.gitVersion": _KUBERNETES_VERSION,
    "k8s.io/component-base/version.gitMajor": "1",
    "k8s.io/component-base/version.gitMinor": "34",
    "k8s.io/client-go/pkg/version.gitVersion": _KUBERNETES_VERSION,
}
_FLAGS = (
    "-trimpath",
    "-buildvcs=false",
    "-mod=readonly",
    "-ldflags=-s -w " + " ".join(f"-X {name}={value}" for name, value in _STAMPS.items()),
)
# Without cgo no C compiler is needed and the result runs on any Linux.
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOWORK": "off"}
_BINARY = "controlplane"
_PROGRESS_SECONDS = 10.0
_TAIL_LINES = 25


class ControlPlaneBuildError(RuntimeError):
    """The Go toolchain could not build the control plane programs."""


@dataclass(frozen=True)
class GoToolchain:
    """A Go command that is new enough, and the facts about it that change what it builds."""

    command: Path
    version: str
    platform: str


def go_toolchain() -> GoToolchain | None:
    """Return the Go toolchain on PATH, or None if there is none of at least `OLDEST_GO`."""
    command = shutil.which("go")
    if command is None:
        return None
    answer = subprocess.run(
        [command, "env", "GOVERSION", "GOOS", "GOARCH"],
        cwd=_MODULE,
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.match(r"go(\d+)\.(\d+)\S*\n(\w+)\n(\w+)$", answer.stdout.strip())
    if match is None or (int(match[1]), int(match[2])) < OLDEST_GO:
        return None
    version = answer.stdout.split()[0]
    return GoToolchain(Path(command), version, f"{match[3]}/{match[4]}")


def build(toolchain: GoToolchain, programs: Sequence[str], progress: Callable[[str], None]) -> Path:
    """Return the folder that holds `programs`, building it if the cache has none.

    Raises:
        ControlPlaneBuildError: the compiler failed; the text ends with what it said.
    """
    cache = _cache_folder()
    folder = cache / f"controlplane-{_content_hash(toolchain, programs)}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _build_lock(cache / "controlplane.lock", progress):
            if not folder.is_dir():
                _build_into(folder, toolchain, programs, progress)
    except OSError as error:
        raise ControlPlaneBuildError(
            f"Could not write the control plane programs to {folder}: {error}. "
            "Free or unlock that folder, or set SLM_CACHE_DIR to another one, and try again."
        ) from error
    return folder


def _cache_folder() -> Path:
    own = os.environ.get("SLM_CACHE_DIR")
    if own:
        return Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "slm-operator"


def _content_hash(toolchain: GoToolchain, programs: Sequence[str]) -> str:
    settings = [toolchain.version, toolchain.platform, repr(_FLAGS), repr(_ENVIRONMENT), *programs]
    digest = hashlib.sha256("\n".join(settings).encode())
    for name in _SOURCES:
        digest.update((_MODULE / name).read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _build_lock(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("Another process is building the control plane programs; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_into(
    folder: Path, toolchain: GoToolchain, programs: Sequence[str], progress: Callable[[str], None]
) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _compile(toolchain, partial / _BINARY, partial / "build.log", progress)
        for name in programs:
            (partial / name).symlink_to(_BINARY)
        # The rename is last, so a folder of the final name is always complete.
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _compile(
    toolchain: GoToolchain, binary: Path, log: Path, progress: Callable[[str], None]
) -> None:
    progress(
        f"Building etcd and Kubernetes {_KUBERNETES_VERSION} with {toolchain.version}: once, "
        "about ten minutes on two cores."
    )
    started = time.monotonic()
    command = [str(toolchain.command), "build", "-v", *_FLAGS, "-o", str(binary), "."]
    with log.open("wb") as output:
        compiler = subprocess.Popen(
            command,
            cwd=_MODULE,
            env=os.environ | _ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while (exit_code := _wait(compiler, _PROGRESS_SECONDS)) is None:
            elapsed_seconds = time.monotonic() - started
            progress(f"  {elapsed_seconds:4.0f} s, {_count_packages(log)} packages compiled")
    finally:
        if compiler.poll() is None:
            compiler.terminate()
            compiler.wait()
    if exit_code != 0:
        lines = log.read_text(errors="replace").splitlines()
        tail = "\n".join(lines[-_TAIL_LINES:])
        raise ControlPlaneBuildError(
            f"{toolchain.command} could not build the control plane programs (exit code "
            f"{exit_code}). Its output ends:\n{tail}\n"
            "Once the cause is gone, run `python -m slm_dev.controlplane` again: packages that "
            "were compiled are kept, so it goes on from there."
        )
    progress(f"Built in {time.monotonic() - started:.0f} s.")


def _wait(process: subprocess.Popen[bytes], timeout_seconds: float) -> int | None:
    try:
        return process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        return None


def _count_packages(log: Path) -> int:
    lines = log.read_text(errors="replace").splitlines()
    return sum(not line.startswith(("go: ", "#")) for line in lines)
