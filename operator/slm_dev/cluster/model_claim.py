"""The cached small model on a claim, as an administrator of the cluster puts it there."""

import shutil
from pathlib import Path
from typing import Any

from slm_dev.cluster.cluster import Cluster
from slm_dev.vllm_cpu.cache import Progress
from slm_dev.vllm_cpu.model import ensure_model

CLAIM = "models"
MODEL = "smollm2-135m-instruct"
MODEL_URI = f"pvc://{CLAIM}/{MODEL}"
"""What a service in the claim's namespace gives as its model."""

_SIZE = {"storage": "1Gi"}


def provide_model(cluster: Cluster, namespace: str, progress: Progress) -> None:
    """Copy the model to the node, and make the claim `CLAIM` of ``namespace`` with it.

    Volume and copy end with the cluster. Raises SetupError.
    """
    folder = cluster.layout.data / CLAIM
    place = Path(shutil.copytree(ensure_model(progress), folder / MODEL, dirs_exist_ok=True))
    # Packs run as a user of their own, who may read it and no more.
    for path in (folder, place):
        path.chmod(0o755)
    for file in place.iterdir():
        file.chmod(0o644)
    cluster.apply(*volume_and_claim(namespace, folder))


def volume_and_claim(namespace: str, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A volume that is ``folder`` of the node, and the claim `CLAIM` on it and no other."""
    # No class, so that nothing else provides the one or takes the other.
    both = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    name = f"{namespace}-{CLAIM}"
    return (
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                **both,
                "capacity": _SIZE,
                "hostPath": {"path": str(folder), "type": "Directory"},
                "claimRef": {"namespace": namespace, "name": CLAIM},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": CLAIM, "namespace": namespace},
            "spec": {**both, "volumeName": name, "resources": {"requests": _SIZE}},
        },
    )
