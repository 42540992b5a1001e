"""Builds, starts and removes the development cluster of this host."""

import argparse
import contextlib
import sys
import time
from pathlib import Path

from slm_dev import helm, images
from slm_dev.cluster import (
    Cluster,
    ClusterStartError,
    HostError,
    KubectlError,
    Layout,
    ProgramsMissing,
    WaitError,
    find_or_build,
    host_lock,
    remove_cluster,
)
from slm_dev.cluster.existing import ExistingClusterError
from slm_dev.cluster.existing import install as install_there
from slm_dev.cluster.requirements import missing_packages
from slm_dev.controlplane import ControlPlaneMissing
from slm_dev.go_build import GoBuildError
from slm_dev.helm import HelmMissing
from slm_dev.images import SetupError
from slm_dev.release import NAMESPACE, HelmError, Release, values_of
from slm_dev.system import install


def main() -> int:
    """Return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m slm_dev.cluster", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("setup", help="install the Debian packages it needs; build all of it")
    tasks.add_parser("build", help="build its programs")
    up = tasks.add_parser("up", help="start it, and install the product in it")
    up.add_argument("--bare", action="store_true", help="without the product")
    up.add_argument("--gpus", type=int, default=2, help="how many simulated GPUs the node has")
    up.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        help="a tar file of images to import; repeatable",
    )
    there = tasks.add_parser("install", help="install the product in another cluster, once asked")
    there.add_argument("--kubeconfig", type=Path, required=True)
    there.add_argument("--registry", default="", help="where its nodes pull the images from")
    tasks.add_parser("down", help="remove every trace of it")
    arguments = parser.parse_args()
    try:
        return _do(arguments)
    except (
        ClusterStartError,
        ControlPlaneMissing,
        ExistingClusterError,
        GoBuildError,
        HelmError,
        HelmMissing,
        HostError,
        KubectlError,
        ProgramsMissing,
        SetupError,
        WaitError,
    ) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _do(arguments: argparse.Namespace) -> int:
    if arguments.task == "setup" and (exit_code := install(missing_packages())):
        return exit_code
    if arguments.task == "down":
        with host_lock(_say):
            started = time.monotonic()
            remove_cluster(Layout())
            _say(f"No cluster is left on this host ({time.monotonic() - started:.0f} s).")
        return 0
    programs = find_or_build(_say)
    if arguments.task == "setup":
        helm.find_or_build(_say)
        images.find_or_build(_say)
    if arguments.task == "up":
        with host_lock(_say):
            _up(Cluster(programs), arguments)
    if arguments.task == "install":
        kubectl = programs.control_plane.kubectl
        done = install_there(kubectl, arguments.kubeconfig, arguments.registry, _say, _ask)
        if done:
            _say("Installed. Next:")
            _say(f"  export KUBECONFIG={arguments.kubeconfig}")
            _say_next()
    return 0


def _up(cluster: Cluster, arguments: argparse.Namespace) -> None:
    started = time.monotonic()
    ran_already = cluster.running()
    # Built first, so that no cluster stays behind where they cannot be.
    built = None if arguments.bare else images.find_or_build(_say)
    program = None if arguments.bare else helm.find_or_build(_say)
    archives = [built.operator.archive, built.worker.archive] if built else []
    cluster.start(arguments.gpus, [*arguments.image, *archives])
    if built and program:
        values = values_of(built.operator.name, built.worker.name)
        Release(program, cluster.kubeconfig).install(values, "--wait")
    how = "It runs" if ran_already else f"Ready in {time.monotonic() - started:.0f} s"
    _say(f"{how}. Next:")
    _say(f"  export KUBECONFIG={cluster.kubeconfig}")
    folders = {cluster.kubectl_program.parent: None, **({program.parent: None} if program else {})}
    _say(f"  export PATH={':'.join(map(str, folders))}:$PATH")
    if arguments.bare:
        _say("  kubectl get nodes")
    else:
        _say_next()
    _say("`make cluster-down` removes it.")


def _say_next() -> None:
    _say(f"  kubectl get pods --namespace {NAMESPACE}")
    _say("  kubectl apply -f examples/simulated-h100.yaml")
    _say("  kubectl get slm --watch")


def _ask(question: str) -> str:
    # The end of the input, as where nobody sits before it, is a no.
    with contextlib.suppress(EOFError):
        return input(question)
    return ""


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
