"""Installs the product in a cluster that somebody else runs: says what it would do, and asks."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slm_dev import helm, images
from slm_dev.images import Images
from slm_dev.release import NAMESPACE, Release, values_of

KIND_PREFIX = "kind-"
"""Of the contexts that kind writes; the rest is the cluster's name."""

Progress = Callable[[str], None]


class ExistingClusterError(RuntimeError):
    """The cluster cannot be told or used."""


@dataclass(frozen=True)
class Target:
    """The cluster that a kubeconfig leads to."""

    context: str
    server: str

    @property
    def kind_cluster(self) -> str | None:
        """Its name, if kind made it: its nodes take images from files."""
        named = self.context.startswith(KIND_PREFIX)
        return self.context.removeprefix(KIND_PREFIX) if named else None


@dataclass(frozen=True)
class Step:
    """One change of the cluster."""

    what: str
    command: tuple[str, ...]


def plan(target: Target, release: Release, built: Images | None, registry: str) -> list[Step]:
    """What installs the product: images by kind from files, else from `registry`."""
    steps = []
    if built is not None:
        for image in (built.operator, built.worker):
            load = ("kind", "load", "image-archive", str(image.archive))
            steps.append(
                Step(f"load {image.name}", (*load, "--name", target.kind_cluster or "kind"))
            )
        values = values_of(built.operator.name, built.worker.name)
    else:
        values = {
            "image.repository": f"{registry}/slm-operator",
            "worker.image.repository": f"{registry}/slm-worker",
        }
    what = f"install the chart, or bring it up to date, in the namespace {NAMESPACE}"
    return [*steps, Step(what, tuple(release.install_command(values)))]


def install(
    kubectl: Path, kubeconfig: Path, registry: str, say: Progress, ask: Callable[[str], str]
) -> bool:
    """Say what would be done, and do it if the answer is yes. Returns whether it was done.

    Raises:
        ExistingClusterError: the cluster or a way for its images is unknown, or a step failed.
        HelmMissing, GoBuildError, SetupError: helm or the images cannot be made here.
    """
    target = read_target(kubectl, kubeconfig)
    if not registry and target.kind_cluster is None:
        raise ExistingClusterError(
            f"The nodes of {target.server} need a registry to pull the images from: push "
            "slm-operator and slm-worker to one (docs/images.md) and name it, as in "
            f"`make cluster KUBECONFIG={kubeconfig} REGISTRY=registry.example/team`."
        )
    built = None if registry else images.find_or_build(say)
    steps = plan(target, Release(helm.find_or_build(say), kubeconfig), built, registry)
    say(f"In the cluster {target.server} (context {target.context}) this will:")
    for number, step in enumerate(steps, start=1):
        say(f"  {number}. {step.what}\n       {' '.join(step.command)}")
    if ask("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        say("Nothing was changed.")
        return False
    for step in steps:
        _run(step.command)
    return True


def read_target(kubectl: Path, kubeconfig: Path) -> Target:
    """Read the current context of a kubeconfig. Raises ExistingClusterError."""
    if not kubeconfig.is_file():
        raise ExistingClusterError(f"KUBECONFIG is {kubeconfig}, which is no file: correct it.")
    arguments = ("--kubeconfig", str(kubeconfig), "config", "view", "--minify", "--output", "json")
    known = json.loads(_run((str(kubectl), *arguments)))
    if not known.get("clusters"):
        raise ExistingClusterError(
            f"{kubeconfig} has no current context: choose one by `kubectl config use-context NAME`."
        )
    return Target(known["current-context"], known["clusters"][0]["cluster"]["server"])


def _run(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ExistingClusterError(f"{command[0]} is not on PATH: install it.") from None
    if done.returncode != 0:
        raise ExistingClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
