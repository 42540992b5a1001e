"""Runs one container's main process, and leaves none of its descendants behind.

Called as a script with the standard library alone. The starter writes one line of JSON to standard
input (`argv`, `env`, `cwd`, `log`, `log_bytes`), then the lines TERM or KILL; it reads one line
`{"started": pid}` or `{"failed": text}` and at the end one line `{"code": n}` or `{"signal": n}`.

Each container has a shim of its own for three reasons. It is the child subreaper of just that
container, so every orphan it collects is the container's, and no exit status that somebody else
waits for is ever taken. Its input closes when the starter dies, even by SIGKILL, and it then kills
the container. And it has one thread, so the signal that the kernel sends the main process at the
death of its parent, which is tied to the parent's thread, means the death of the shim.
"""

import contextlib
import ctypes
import glob
import json
import os
import selectors
import signal
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_CHUNK_BYTES = 65536
_LIBC = ctypes.CDLL(None)


class CannotStartError(Exception):
    """The main process could not be started; the text says what and why."""


class RotatingLog:
    """A file that moves to `PATH.1` when it holds half of the limit; the two are the log."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path
        self._half_bytes = limit_bytes // 2
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        self._size_bytes = 0

    def write(self, data: bytes) -> None:
        if self._size_bytes + len(data) > self._half_bytes:
            os.close(self._file)
            os.replace(self._path, self._path + ".1")  # noqa: PTH105 - pathlib is slow to import
            self._open()
        self._size_bytes += os.write(self._file, data)


class Control:
    """The starter's lines."""

    def __init__(self) -> None:
        self._pending = b""
        self.closed = False

    def lines(self) -> list[bytes]:
        """The lines that one read completes."""
        data = os.read(0, _CHUNK_BYTES)
        self.closed = not data
        *complete, self._pending = (self._pending + data).split(b"\n")
        return complete


def spawn(argv: list[str], env: dict[str, str], cwd: str, output: int) -> int:
    """Starts the main process in a session of its own and returns its pid.

    Raises:
        CannotStartError: there is no such program or folder, or an argument has a NUL character.
    """
    shim = os.getpid()
    errors_read, errors_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != shim:
                os._exit(1)
            os.setsid()
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            # Python ignores these two, and what is ignored stays so in the new program.
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(ignored, signal.SIG_DFL)
            os.umask(0o022)
            os.chdir(cwd)
            os.execvpe(argv[0], argv, env)  # noqa: S606
        except (OSError, ValueError) as error:
            in_folder = isinstance(error, OSError) and error.filename == cwd
            problem = f"{cwd if in_folder else argv[0]}: {getattr(error, 'strerror', error)}"
            os.write(errors_write, problem.encode())
        finally:
            os._exit(127)
    os.close(errors_write)
    failure = os.read(errors_read, _CHUNK_BYTES).decode()
    os.close(errors_read)
    if failure:
        os.waitpid(pid, 0)
        raise CannotStartError(failure)
    return pid


def children(pid: int) -> list[int]:
    """The children of all threads of a process."""
    found: list[int] = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):  # noqa: PTH207
        with contextlib.suppress(OSError), open(path) as file:  # noqa: PTH123
            found += [int(each) for each in file.read().split()]
    return found


def kill_descendants() -> None:
    """Sends SIGKILL to everything below this process, once."""
    waiting = children(os.getpid())
    while waiting:
        pid = waiting.pop()
        waiting += children(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def reap(main: int) -> tuple[int | None, bool]:
    """Collects the ended children: the status of the main process if it is one, and whether others
    are left."""
    main_status = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return main_status, False
        if pid == 0:
            return main_status, True
        if pid == main:
            main_status = status


def kill_all(main: int) -> int | None:
    """Kills and collects every descendant; returns the status of the main process if it is one."""
    main_status = None
    alive = True
    while alive:
        kill_descendants()
        status, alive = reap(main)
        main_status = main_status if status is None else status
        if alive:
            time.sleep(0.01)
    return main_status


def report(**message: object) -> None:
    # A starter that is gone needs no report.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(message).encode() + b"\n")


def supervise(main: int, control: Control, output: int, log: RotatingLog | None) -> int | None:
    """Runs until the main process or the starter ends; returns the former's status, else None."""
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wakeup_read, selectors.EVENT_READ)
    selector.register(output, selectors.EVENT_READ)
    # The main process may have ended before its signal could wake the selector.
    status, _ = reap(main)
    while status is None:
        for key, _ in selector.select():
            if key.fd == wakeup_read:
                os.read(wakeup_read, _CHUNK_BYTES)
                status, _ = reap(main)
            elif key.fd == output and not pump(output, log):
                selector.unregister(output)
            elif key.fd == 0:
                for line in control.lines():
                    if line == b"KILL":
                        kill_descendants()
                    elif line == b"TERM":
                        os.kill(main, signal.SIGTERM)
                if control.closed:
                    return None
            if status is not None:
                break
    return status


def pump(output: int, log: RotatingLog | None) -> bool:
    """Moves what there is of the output into the log; False at its end or when there is none."""
    try:
        data = os.read(output, _CHUNK_BYTES)
    except BlockingIOError:
        return False
    if data and log is not None:
        log.write(data)
    return bool(data)


def main() -> None:
    _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # Handlers, unlike ignored signals, are not inherited by the container.
    for each in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(each, lambda *_: None)
    control = Control()
    lines: list[bytes] = []
    while not lines:
        lines = control.lines()
        if control.closed:
            return
    request = json.loads(lines[0])
    log = RotatingLog(request["log"], request["log_bytes"]) if request["log"] else None
    output, output_write = os.pipe()
    try:
        main_pid = spawn(request["argv"], request["env"], request["cwd"], output_write)
    except CannotStartError as error:
        report(failed=str(error))
        return
    os.close(output_write)
    report(started=main_pid)
    status = supervise(main_pid, control, output, log)
    killed_status = kill_all(main_pid)
    os.set_blocking(output, False)
    while pump(output, log):
        pass
    code = os.waitstatus_to_exitcode(status if status is not None else killed_status or 0)
    if code < 0:
        report(signal=-code)
    else:
        report(code=code)


if __name__ == "__main__":
    main()
