"""Installs the product in a cluster by helm, as an administrator does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CHART = Path(__file__).parents[2] / "charts" / "slm-operator"
NAME = "slm-operator"
NAMESPACE = "slm-system"

Values = Mapping[str, str]
"""Of the chart, by their paths, as `helm --set-string` takes them."""


class HelmError(RuntimeError):
    """Helm said no."""


@dataclass(frozen=True)
class Release:
    """The one release of the chart in a cluster. All calls block."""

    helm: Path
    """The program."""
    kubeconfig: Path
    """Of an administrator."""
    chart: Path = CHART

    def command(self, *arguments: str) -> list[str]:
        """The whole command of a call of helm for this release."""
        where = ("--kubeconfig", str(self.kubeconfig), "--namespace", NAMESPACE)
        return [str(self.helm), *arguments, *where]

    def install_command(self, values: Values, *options: str) -> list[str]:
        """The command that installs the release, or brings one that is there up to date."""
        settings = [word for path, value in values.items() for word in ("--set", f"{path}={value}")]
        words = ("upgrade", NAME, str(self.chart), "--install", "--create-namespace")
        return self.command(*words, *settings, *options)

    def install(self, values: Values, *options: str) -> str:
        """Install the release, or bring one that is there up to date. Raises HelmError."""
        return run(self.install_command(values, *options))

    def call(self, *arguments: str) -> str:
        """Call helm and return what it prints. Raises HelmError."""
        return run(self.command(*arguments))


def values_of(operator: str, worker: str) -> dict[str, str]:
    """The chart's values for images, each as REPOSITORY:TAG."""
    found: dict[str, str] = {}
    for path, image in (("image", operator), ("worker.image", worker)):
        repository, _, tag = image.rpartition(":")
        found |= {f"{path}.repository": repository, f"{path}.tag": tag}
    return found


def run(command: list[str]) -> str:
    """Run helm and return what it prints. Raises HelmError."""
    # Whoever runs this may have set another cluster for helm in its own variables.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HELM_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HelmError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
