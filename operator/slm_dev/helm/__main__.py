"""Builds helm where this machine has none, and says where it is."""

import sys

from slm_dev.helm import GoBuildError, HelmMissing, find_or_build


def main() -> int:
    """Return the process's exit code."""
    try:
        print(find_or_build(lambda line: print(line, file=sys.stderr, flush=True)))
    except (HelmMissing, GoBuildError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
