"""Builds the control plane programs, and with --run keeps a control plane up until Ctrl-C."""

import argparse
import signal
import sys

from slm_dev.controlplane import (
    Binaries,
    ControlPlane,
    ControlPlaneBuildError,
    ControlPlaneMissing,
    ControlPlaneStartError,
    find_or_build,
)


def main() -> int:
    """Return the process's exit code."""
    parser = argparse.ArgumentParser(prog="python -m slm_dev.controlplane", description=__doc__)
    parser.add_argument("--run", action="store_true", help="start a control plane until Ctrl-C")
    arguments = parser.parse_args()
    try:
        binaries = find_or_build(_say)
        if arguments.run:
            _run(binaries)
        else:
            _say(f"etcd            {binaries.etcd}")
            _say(f"kube-apiserver  {binaries.kube_apiserver}")
            _say(f"kubectl         {binaries.kubectl}")
    except (ControlPlaneMissing, ControlPlaneBuildError, ControlPlaneStartError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(binaries: Binaries) -> None:
    _say("Starting etcd and kube-apiserver.")
    with ControlPlane(binaries) as control_plane:
        stops = {signal.SIGINT, signal.SIGTERM}
        signal.pthread_sigmask(signal.SIG_BLOCK, stops)
        _say(f"Ready at {control_plane.url}. In another terminal:")
        _say(f"  export KUBECONFIG={control_plane.kubeconfig('admin')}")
        _say(f"  {binaries.kubectl} get namespaces")
        _say("Ctrl-C stops it and removes its data.")
        signal.sigwait(stops)
        _say("Stopping.")


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
