"""kubectl as an administrator uses it, on a control plane that knows SLMServices."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from slm_dev.controlplane import ControlPlane, find_or_build
from slm_operator.api.models import GROUP, PLURAL

CRD_FILE = Path(__file__).parents[2] / "crds" / f"{PLURAL}.{GROUP}.yaml"
SERVED_SECONDS = 60.0


class Kubectl:
    """Runs kubectl as an administrator."""

    def __init__(self, control_plane: ControlPlane, cache: Path) -> None:
        self._command = [
            str(find_or_build(print).kubectl),
            f"--kubeconfig={control_plane.kubeconfig('admin')}",
            f"--cache-dir={cache}",
        ]

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            input=stdin,
        )

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def until_served(self, *arguments: str) -> str:
        """The first answer: a new resource is unknown for a moment."""
        deadline = time.monotonic() + SERVED_SECONDS
        while (asked := self.run(*arguments)).returncode != 0:
            assert time.monotonic() < deadline, asked.stderr
            time.sleep(0.1)
        return asked.stdout

    def install_crd(self) -> None:
        self("apply", "--server-side", "--force-conflicts", "-f", str(CRD_FILE))
        self.until_served("get", "slm", "-A")
