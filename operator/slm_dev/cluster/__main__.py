"""Builds, starts and removes the development cluster of this host."""

import argparse
import sys
import time
from pathlib import Path

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
from slm_dev.cluster.requirements import missing_packages
from slm_dev.controlplane import ControlPlaneMissing
from slm_dev.go_build import GoBuildError
from slm_dev.system import install


def main() -> int:
    """Return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m slm_dev.cluster", description=__doc__)
    tasks = parser.add_subparsers(dest="task", required=True)
    tasks.add_parser("setup", help="install the Debian packages it needs and build its programs")
    tasks.add_parser("build", help="build its programs")
    up = tasks.add_parser("up", help="start it")
    up.add_argument("--gpus", type=int, default=2, help="how many simulated GPUs the node has")
    up.add_argument(
        "--image",
        type=Path,
        action="append",
        default=[],
        help="a tar file of images to import; repeatable",
    )
    tasks.add_parser("down", help="remove every trace of it")
    arguments = parser.parse_args()
    try:
        return _do(arguments)
    except (
        ClusterStartError,
        ControlPlaneMissing,
        GoBuildError,
        HostError,
        KubectlError,
        ProgramsMissing,
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
    if arguments.task == "up":
        with host_lock(_say):
            _up(Cluster(programs), arguments.gpus, arguments.image)
    return 0


def _up(cluster: Cluster, gpus: int, images: list[Path]) -> None:
    started = time.monotonic()
    ran_already = cluster.running()
    cluster.start(gpus, images)
    how = "It runs already." if ran_already else f"Ready in {time.monotonic() - started:.0f} s."
    _say(f"{how} Use it with:")
    _say(f"  export KUBECONFIG={cluster.kubeconfig}")
    _say(f"  export PATH={cluster.kubectl_program.parent}:$PATH")
    _say("  kubectl get nodes")
    _say("`make cluster-down` removes it.")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
