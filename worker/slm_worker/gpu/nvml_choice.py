"""PURE: which of the GPUs that the driver shows is the pack's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slm_worker.gpu.base import DeviceError

DEVICE_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
"""Makes CUDA count GPUs as NVML and the agent do; by default it takes the fastest for the first."""

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"


def chosen_gpu(uuids: Sequence[str], environ: Mapping[str, str]) -> int:
    """Index of the pack's GPU among those that the driver shows, given by their ``uuids``, each
    empty where that GPU cannot be used: it counts for the others' indexes alone.

    CUDA_VISIBLE_DEVICES decides where it is set. Otherwise a single GPU needs no choice (inside a
    container NVIDIA_VISIBLE_DEVICES may name it by the node's numbering), and among several
    NVIDIA_VISIBLE_DEVICES decides, also where it names one that cannot be used: the others are
    somebody else's. Raises DeviceError unless exactly one GPU remains.
    """
    usable = [index for index, uuid in enumerate(uuids) if uuid]
    if not usable:
        raise DeviceError(
            "The driver shows no GPU: request nvidia.com/gpu: 1 for the pod, or set gpu.kind CPU."
        )
    variable = VISIBLE_DEVICES
    if variable not in environ:
        if len(uuids) == 1:
            return 0
        variable = "NVIDIA_VISIBLE_DEVICES"
    value = environ.get(variable, "all")
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    chosen = usable if entries == ["all"] else [_index(e, uuids) for e in entries]
    if len(chosen) != 1 or chosen[0] is None:
        shown = ", ".join(uuids[index] for index in usable)
        raise DeviceError(
            f"A pack owns one whole GPU, but the driver shows {len(usable)} ({shown}) "
            f"and {variable} is {value!r}: request nvidia.com/gpu: 1, or set CUDA_VISIBLE_DEVICES "
            "to the index or UUID of one of them (no MIG slice)."
        )
    return chosen[0]


def engine_choice(chosen: int, uuids: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """What makes an engine process that inherits ``environ`` run on the GPU ``chosen``.

    The index, for vLLM takes no UUID. Nothing where CUDA shows no other GPU anyway. Where some
    cannot be used CUDA may count without them, so that the choice in ``environ`` stays as it is.
    """
    usable = sum(map(bool, uuids))
    if usable == 1 and VISIBLE_DEVICES not in environ:
        return {}
    if usable < len(uuids):
        return DEVICE_ORDER
    return DEVICE_ORDER | {VISIBLE_DEVICES: str(chosen)}


def _index(entry: str, uuids: Sequence[str]) -> int | None:
    """The GPU that an entry names by index, or by a UUID or its beginning (as CUDA allows)."""
    if entry.isdecimal():
        return int(entry) if int(entry) < len(uuids) else None
    named = [index for index, uuid in enumerate(uuids) if uuid.startswith(entry)]
    return named[0] if len(named) == 1 else None
