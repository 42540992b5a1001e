"""Writes docs/reference: ``python -m slm_dev.reference``."""

from __future__ import annotations

from pathlib import Path

from slm_dev.reference import FOLDER, pages


def main() -> None:
    folder = Path(__file__).resolve().parents[3] / FOLDER
    for name, text in pages().items():
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
