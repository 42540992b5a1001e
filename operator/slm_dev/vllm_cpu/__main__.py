"""Install vLLM for the CPU and the model: ``python -m slm_dev.vllm_cpu``."""

from __future__ import annotations

import sys
import time

from slm_dev.vllm_cpu.errors import SetupError
from slm_dev.vllm_cpu.install import ensure_environment
from slm_dev.vllm_cpu.model import ensure_model


def main() -> int:
    """Print progress on standard error and the paths on standard output; return the exit code."""
    started = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - started:5.1f} s] {line}", file=sys.stderr, flush=True)

    try:
        environment = ensure_environment(progress)
        model = ensure_model(progress)
    except SetupError as error:
        print(f"setup-vllm: {error}", file=sys.stderr)
        return 1
    print(f"vllm:  {environment.vllm}\nmodel: {model}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
