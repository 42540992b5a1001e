"""Which ports engines of one pack are given."""

from __future__ import annotations

from itertools import chain, repeat

import pytest

from slm_worker.replicas import ports
from slm_worker.replicas.ports import Ports

ADDRESS = "127.0.0.1"


def offer(monkeypatch: pytest.MonkeyPatch, *offered: int) -> None:
    """The kernel offers these ports, and the last for ever."""
    ever = chain(offered, repeat(offered[-1]))
    monkeypatch.setattr(ports, "free_port", lambda _: next(ever))


def test_engines_that_start_together_get_different_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, 9001, 9001, 9002, 9001, 9002, 9003)
    given = Ports()
    assert [given.choose(ADDRESS) for _ in range(3)] == [9001, 9002, 9003]


def test_a_host_with_one_port_gives_that(monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, 9001)
    given = Ports()
    assert [given.choose(ADDRESS) for _ in range(2)] == [9001, 9001]
