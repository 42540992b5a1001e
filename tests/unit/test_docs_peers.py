"""docs/peers.md has a section for every peer, and for nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from slm_operator.simulate.peers import PEERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "peers.md"


def test_every_peer_has_a_section() -> None:
    headings = re.findall(r"^## (.+)$", DOCUMENT.read_text(), re.MULTILINE)
    assert headings == ["What holds for all", *PEERS]
