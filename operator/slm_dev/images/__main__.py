"""Build the images: ``python -m slm_dev.images``."""

from __future__ import annotations

import sys
import time

from slm_dev.images import Image, SetupError, find_or_build


def main() -> int:
    """Print progress on standard error and the images on standard output; return the exit code."""
    started = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)

    try:
        images = find_or_build(progress)
    except SetupError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    for image in (images.operator, images.worker):
        _show(image)
    return 0


def _show(image: Image) -> None:
    megabytes = image.archive.stat().st_size / 1e6
    print(f"{image.name}\n  archive {image.archive} ({megabytes:.1f} MB)")
    print(f"  digest  {image.digest}\n  bill    {image.sbom}")


if __name__ == "__main__":
    sys.exit(main())
