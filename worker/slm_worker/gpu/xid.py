"""PURE: the driver's error reports (Xid), and which of them are the hardware's.

Meanings and actions: NVIDIA's Xid catalogue, https://docs.nvidia.com/deploy/xid-errors.
"""

from __future__ import annotations

APPLICATION_XIDS = frozenset({8, 11, 13, 31, 32, 43, 45, 68, 69, 109})
"""A process did something wrong or was ended: the catalogue says to restart it. The agent sees that
process end, so the GPU's health takes no note of them."""

_RESET = "drain the node and reset the GPU"
_MEANINGS: dict[int, tuple[str, str]] = {
    48: ("uncorrectable memory error", _RESET),
    63: ("a faulty memory row or page was marked for replacement", _RESET),
    64: ("a faulty memory row or page could not be replaced", "replace the GPU if it repeats"),
    74: ("NVLink error", "look at the node's kernel log for the link, and reset the GPU"),
    79: ("the GPU fell off the bus", "drain and restart the node"),
    92: ("many corrected memory errors", "run NVIDIA's field diagnostics if it repeats"),
    94: ("uncorrectable memory error, contained in one process", _RESET + " when it suits"),
    95: ("uncorrectable memory error, not contained", _RESET),
    119: ("the GPU's system processor does not answer", _RESET),
    120: ("error of the GPU's system processor", _RESET),
    140: ("unrecovered memory error", _RESET),
    143: ("the GPU could not be initialised", _RESET),
    154: ("the driver asks for a recovery", "see the node's kernel log for the action it names"),
}


def critical(xids: tuple[int, ...]) -> tuple[int, ...]:
    """Those that speak of the hardware or the driver, each once; what is unknown counts."""
    return tuple(dict.fromkeys(xid for xid in xids if xid not in APPLICATION_XIDS))


def explain(xid: int) -> str:
    """Meaning and remedy, for a message."""
    meaning, remedy = _MEANINGS.get(
        xid, ("see NVIDIA's Xid catalogue", "look at the node's kernel log")
    )
    return f"Xid {xid} ({meaning}): {remedy}"
