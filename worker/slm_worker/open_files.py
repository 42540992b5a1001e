"""How many files and connections this process may have open at once: an agent, an operator or an
activator."""

from __future__ import annotations

import contextlib
import logging
import resource

ENOUGH_OPEN_FILES = 65_536
"""Not all that is allowed, which may be a billion: children inherit it, and there are programs
that make a table of that size, or close each file up to it."""
FEW_OPEN_FILES = 4096
"""Fewer are not enough for what clients may have waiting beside an agent's calibration load, which
takes one connection for each place in a batch, nor for an operator with a thousand packs."""

log = logging.getLogger(__name__)


def allow_open_files() -> None:
    """Raises the soft limit as far as the hard one lets it: that of containers is often 1,024, for
    the sake of programs that call select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed, wanted = (
        ENOUGH_OPEN_FILES if limit == resource.RLIM_INFINITY else min(limit, ENOUGH_OPEN_FILES)
        for limit in (soft, hard)
    )
    if allowed < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            allowed = wanted
    if allowed < FEW_OPEN_FILES:
        log.warning(
            "only %d files and connections may be open at once: under load connections fail; "
            "raise the limit that the container runtime gives (LimitNOFILE)",
            allowed,
        )
