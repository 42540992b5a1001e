"""Debian's Prometheus: its programs, and a server that scrapes what it is told.

The package is unpacked into the cache and not installed: its service would listen on port 9090.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slm_dev.controlplane.process import GuardedProcess
from slm_dev.go_build import cache_folder

PACKAGE = "prometheus"
PROGRAMS = ("prometheus", "promtool")
START_SECONDS = 60.0
ANSWER_SECONDS = 30.0
POLL_SECONDS = 0.2


class PrometheusMissing(RuntimeError):  # noqa: N818 - it says what is so
    """This machine has no Prometheus, and apt could not fetch it."""


class PrometheusError(RuntimeError):
    """Prometheus did not start, or refused a query."""


@dataclass(frozen=True)
class Programs:
    prometheus: Path
    promtool: Path


def find_or_fetch() -> Programs:
    """The programs from PATH, else from the cache, else from Debian's package, which is fetched by
    apt once. Needs no root where apt's lists are there. Raises PrometheusMissing."""
    on_path = [shutil.which(name) for name in PROGRAMS]
    if all(on_path):
        return Programs(*(Path(found) for found in on_path if found))
    folder = cache_folder() / PACKAGE
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{PACKAGE}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                _fetch(folder)
    return Programs(*(folder / "usr/bin" / name for name in PROGRAMS))


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{PACKAGE}-") as partial:
        # As root apt would give the download to a user who may not write into the folder.
        download = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", PACKAGE]
        said = _run(download, partial)
        if said is not None and os.geteuid() == 0:
            _run(["apt-get", "update", "-qq"], partial)
            said = _run(download, partial)
        archives = list(Path(partial).glob("*.deb"))
        if said is None and archives:
            said = _run(["dpkg-deb", "-x", str(archives[0]), f"{partial}/unpacked"], partial)
        if said is not None:
            raise PrometheusMissing(
                f"no {' and '.join(PROGRAMS)} on PATH, and the Debian package {PACKAGE} could not "
                f"be fetched ({said}): install it, or put both programs on PATH"
            )
        # The rename is last, so a folder of the final name is always complete.
        Path(partial, "unpacked").rename(folder)


def _run(command: Sequence[str], folder: str) -> str | None:
    """Why the command failed; None when it did not."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stderr.strip()[-500:] or f"exit {done.returncode}"


class Prometheus:
    """A running server, a context manager. Its data goes with it."""

    def __init__(
        self,
        programs: Programs,
        address: str,
        scrape_configs: Sequence[Mapping[str, Any]],
        rule_files: Sequence[Path] = (),
        interval_seconds: int = 1,
    ) -> None:
        """``address``: HOST:PORT where it listens."""
        self.url = f"http://{address}"
        self._programs = programs
        self._address = address
        self._config = {
            "global": {
                "scrape_interval": f"{interval_seconds}s",
                "scrape_timeout": f"{interval_seconds}s",
                "evaluation_interval": f"{interval_seconds}s",
            },
            "rule_files": [str(path) for path in rule_files],
            "scrape_configs": list(scrape_configs),
        }

    def __enter__(self) -> Self:
        """Raises PrometheusError."""
        self._folder = folder = Path(tempfile.mkdtemp(prefix="slm-prometheus-"))
        config = folder / "prometheus.yml"
        config.write_text(json.dumps(self._config))  # JSON is YAML
        self._process = GuardedProcess(
            [
                str(self._programs.prometheus),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self._address}",
                "--log.level=warn",
            ],
            folder,
            folder / "prometheus.log",
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            if self._process.exited() or time.monotonic() > deadline:
                log = self._process.log_tail()
                self.__exit__(None, None, None)
                raise PrometheusError(f"Prometheus did not start. Its log ends:\n{log}")
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant vector, or a scalar as one of them. Raises PrometheusError."""
        data = self._get("query", query=expression)
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[dict[str, Any]] = data["result"]
        return found

    def query_range(
        self, expression: str, start_seconds: float, end_seconds: float, step_seconds: float
    ) -> list[dict[str, Any]]:
        """Series over time; Unix time. Raises PrometheusError."""
        found: list[dict[str, Any]] = self._get(
            "query_range",
            query=expression,
            start=str(start_seconds),
            end=str(end_seconds),
            step=str(step_seconds),
        )["result"]
        return found

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, and how that goes."""
        found: list[dict[str, Any]] = self._get("targets", state="active")["activeTargets"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health and, for an alert, its state."""
        groups = self._get("rules")["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2):  # noqa: S310 - http
                return True
        except (OSError, urllib.error.URLError):
            return False

    def _get(self, what: str, **arguments: str) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(arguments)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - http
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            text = json.loads(error.read()).get("error", "")
            raise PrometheusError(f"{arguments.get('query', what)}: {text}") from error
