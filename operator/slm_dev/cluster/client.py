"""What tests and developers do with a cluster: kubectl, and a few things that it makes long."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from slm_dev.cluster import waiting

Json = dict[str, Any]
TIMEOUT_SECONDS = 180.0


class KubectlError(RuntimeError):
    """kubectl said no."""


class Client:
    """A user of a cluster. Objects are named as kubectl names them: `pod/a`, `slm/chat`."""

    def __init__(self, kubectl: Path, kubeconfig: Path) -> None:
        self.kubectl_program = kubectl
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl and return what it prints; `text` is its input.

        Raises:
            KubectlError: it failed; the text ends with what it said.
        """
        done = subprocess.run(
            [self.kubectl_program, *arguments],
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            command = f"kubectl {' '.join(arguments)}"
            raise KubectlError(f"`{command}` failed: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *objects: Json) -> None:
        """Apply objects from the server's side, into the namespaces that they name."""
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "--server-side", "-f", "-", text=items)

    def get(self, name: str, namespace: str = "default") -> Json:
        """Return an object, or a list of all of a kind."""
        answer: Json = json.loads(self.kubectl("-n", namespace, "get", name, "-o", "json"))
        return answer

    def wait(
        self,
        name: str,
        condition: str = "Ready",
        *,
        namespace: str = "default",
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """Wait until an object exists and a condition of it is True.

        Raises:
            WaitError: it does not come to that; the text ends with its conditions.
        """

        def missing() -> str:
            try:
                status = self.get(name, namespace).get("status", {})
            except KubectlError as error:
                return str(error)
            conditions = status.get("conditions", [])
            if any(each["type"] == condition and each["status"] == "True" for each in conditions):
                return ""
            return f"its conditions are {json.dumps(conditions)}"

        waiting.until(f"{condition} of {name}", missing, timeout_seconds)

    def execute(self, pod: str, *command: str, namespace: str = "default") -> str:
        """Run a command in a Pod's first container and return what it prints.

        Raises:
            KubectlError: it failed.
        """
        return self.kubectl("-n", namespace, "exec", pod, "--", *command)

    def service_address(self, name: str, namespace: str = "default") -> str:
        """Return a Service's `address:port`, which the host reaches as Pods do."""
        spec = self.get(f"service/{name}", namespace)["spec"]
        return f"{spec['clusterIP']}:{spec['ports'][0]['port']}"
