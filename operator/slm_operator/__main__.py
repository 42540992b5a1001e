"""``python -m slm_operator``: the operator."""

from __future__ import annotations

import faulthandler
import signal

from slm_operator.early_end import end_when_told


def main() -> None:
    end_when_told()
    faulthandler.register(signal.SIGUSR1)  # an operator that hangs shows where

    import typer

    from slm_operator.main import start

    typer.run(start)


if __name__ == "__main__":
    main()
