"""``python -m slm_worker``: the agent of one pack.

Exit codes: 0 after SIGTERM or SIGINT, 2 for wrong settings, 3 when the API's port is taken.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType


def main() -> None:
    # Before the imports, which take seconds where CPU is short: the first process of a container
    # gets no signal that it has no handler for, and its Pod would end only after the whole grace.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)

    from slm_worker.main import run

    sys.exit(run())


def _end(number: int, frame: FrameType | None) -> None:
    """Nothing is served or started yet: there is nothing to drain."""
    sys.exit(0)


if __name__ == "__main__":
    main()
