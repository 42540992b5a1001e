"""``python -m slm_operator.activator``: the activator."""

from __future__ import annotations

from slm_operator.early_end import end_when_told


def main() -> None:
    end_when_told()

    import typer

    from slm_operator.activator.main import start

    typer.run(start)


if __name__ == "__main__":
    main()
