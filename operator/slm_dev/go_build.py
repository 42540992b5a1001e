"""Builds programs of a Go module into the cache folder, once per content."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slm_dev import cache_upkeep

# Without cgo no C compiler is needed and the result runs on any Linux.
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOWORK": "off"}
_PROGRESS_SECONDS = 10.0
_TAIL_LINES = 25


class GoBuildError(RuntimeError):
    """The Go toolchain could not build a program."""


@dataclass(frozen=True)
class GoToolchain:
    """A Go command that is new enough, and the facts about it that change what it builds."""

    command: Path
    version: str
    platform: str


@dataclass(frozen=True)
class GoProgram:
    """A program of a Go module of ours, which pins all that it is built from."""

    name: str
    """Of its file, and of its folder in the cache."""
    module: Path
    """The folder with go.mod."""
    sources: tuple[str, ...]
    """The module's files; the program is built anew when one changes."""
    arguments: tuple[str, ...]
    """Of ``go build``: flags, and the package where it is not the module's own."""
    links: tuple[str, ...]
    """Further names under which the program is to be found."""
    title: str
    """What is built, in words that stand in for its name."""
    contents: str
    """What goes into it, and how long that takes."""
    retry: str
    """The command that tries again."""


def go_toolchain(oldest: tuple[int, int], module: Path) -> GoToolchain | None:
    """Return the Go toolchain on PATH, or None if there is none of at least `oldest`."""
    command = shutil.which("go")
    if command is None:
        return None
    answer = subprocess.run(
        [command, "env", "GOVERSION", "GOOS", "GOARCH"],
        cwd=module,
        env=os.environ | _ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    match = re.match(r"go(\d+)\.(\d+)\S*\n(\w+)\n(\w+)$", answer.stdout.strip())
    if match is None or (int(match[1]), int(match[2])) < oldest:
        return None
    version = answer.stdout.split()[0]
    return GoToolchain(Path(command), version, f"{match[3]}/{match[4]}")


def build(toolchain: GoToolchain, program: GoProgram, progress: Callable[[str], None]) -> Path:
    """Return the folder that holds `program` and its links, building it if the cache has none.

    Raises:
        GoBuildError: the compiler failed; the text ends with what it said.
    """
    cache = cache_folder()
    folder = cache / f"{program.name}-{_content_hash(toolchain, program)}"
    if folder.is_dir():
        cache_upkeep.use(folder, progress)
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _build_lock(cache / f"{program.name}.lock", program, progress):
            if not folder.is_dir():
                _build_into(folder, toolchain, program, progress)
    except OSError as error:
        raise GoBuildError(
            f"Could not write {program.title} to {folder}: {error}. "
            "Free or unlock that folder, or set SLM_CACHE_DIR to another one, and try again."
        ) from error
    cache_upkeep.use(folder, progress)
    return folder


def cache_folder() -> Path:
    """SLM_CACHE_DIR, else the user's cache folder."""
    own = os.environ.get("SLM_CACHE_DIR")
    if own:
        return Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").absolute() / "slm-operator"


def _content_hash(toolchain: GoToolchain, program: GoProgram) -> str:
    settings = [
        toolchain.version,
        toolchain.platform,
        repr(program.arguments),
        repr(_ENVIRONMENT),
        *program.links,
    ]
    digest = hashlib.sha256("\n".join(settings).encode())
    for name in program.sources:
        digest.update((program.module / name).read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _build_lock(path: Path, program: GoProgram, progress: Callable[[str], None]) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"Another process is building {program.title}; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_into(
    folder: Path, toolchain: GoToolchain, program: GoProgram, progress: Callable[[str], None]
) -> None:
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _compile(toolchain, program, partial, progress)
        for name in program.links:
            (partial / name).symlink_to(program.name)
        # The rename is last, so a folder of the final name is always complete.
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _compile(
    toolchain: GoToolchain, program: GoProgram, folder: Path, progress: Callable[[str], None]
) -> None:
    progress(f"Building {program.contents} with {toolchain.version}: once.")
    started = time.monotonic()
    output = str(folder / program.name)
    command = [str(toolchain.command), "build", "-v", "-o", output, *program.arguments]
    log = folder / "build.log"
    with log.open("wb") as stream:
        compiler = subprocess.Popen(
            command,
            cwd=program.module,
            env=os.environ | _ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=stream,
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
        raise GoBuildError(
            f"{toolchain.command} could not build {program.title} (exit code {exit_code}). "
            f"Its output ends:\n{tail}\n"
            f"Once the cause is gone, run `{program.retry}` again: packages that "
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
