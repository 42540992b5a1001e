"""Build the images: ``python -m slm_dev.images``, with ``--vllm`` the worker's with vLLM too."""

from __future__ import annotations

import argparse
import sys
import time

from slm_dev.images import Image, SetupError, find_or_build, worker_with_vllm


def main() -> int:
    """Print progress on standard error and the images on standard output; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m slm_dev.images")
    parser.add_argument(
        "--vllm", action="store_true", help="also the worker's image with vLLM for the CPU (2 GB)"
    )
    with_vllm = parser.parse_args().vllm
    started = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)

    try:
        built = find_or_build(progress)
        images = [built.operator, built.worker]
        if with_vllm:
            images.append(worker_with_vllm(progress))
    except SetupError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    for image in images:
        _show(image)
    return 0


def _show(image: Image) -> None:
    megabytes = image.archive.stat().st_size / 1e6
    print(f"{image.name}\n  archive {image.archive} ({megabytes:.1f} MB)")
    print(f"  digest  {image.digest}\n  bill    {image.sbom}")


if __name__ == "__main__":
    sys.exit(main())
