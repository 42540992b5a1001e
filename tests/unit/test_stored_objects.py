"""Objects as API servers hold them from earlier releases are read by this one, with all they say.

The fixtures are frozen: a release that cannot read them needs a new version of the API.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slm_operator.api.models import SLMService
from slm_operator.decide.points import read

STORED = sorted((Path(__file__).parents[1] / "fixtures/stored_v1alpha1").glob("*.json"))


def lost(stored: Any, now: Any, where: str = "") -> list[str]:
    """What ``stored`` says and ``now`` does not; what is only in ``now`` is a later default."""
    if isinstance(stored, dict) and isinstance(now, dict):
        return [m for k, v in stored.items() for m in lost(v, now.get(k), f"{where}.{k}")]
    if isinstance(stored, list) and isinstance(now, list) and len(stored) == len(now):
        pairs = enumerate(zip(stored, now, strict=True))
        return [m for i, (a, b) in pairs for m in lost(a, b, f"{where}[{i}]")]
    return [] if stored == now else [f"{where}: {stored!r} became {now!r}"]


def test_there_are_objects_of_the_first_version() -> None:
    assert {p.stem for p in STORED} == {"fixed", "following-demand", "smallest"}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_object_is_read_and_written_back_with_all_it_says(path: Path) -> None:
    obj = json.loads(path.read_text())
    service = SLMService.from_object(obj)
    spec = service.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert lost(obj["spec"], spec, "spec") == []
    assert lost(obj.get("status", {}), service.status.to_object(), "status") == []


def test_the_points_of_a_stored_object_still_count() -> None:
    (path,) = [p for p in STORED if p.stem == "following-demand"]
    service = SLMService.from_object(json.loads(path.read_text()))
    (chosen,) = [p for p in service.status.frontier if p.chosen]
    (point,) = [
        p for p in read(service.status.frontier) if p.probe.committed and p.probe.replicas == 2
    ]
    assert (chosen.replicas_per_pack, chosen.output_tokens_per_second) == (2, 10_642)
    assert point.power_watts == pytest.approx(443.1, rel=1e-3)


def test_a_loss_is_noticed() -> None:
    assert lost({"a": [{"b": 1}]}, {"a": [{"b": 2}]}) == [".a[0].b: 1 became 2"]
    assert lost({"a": 1}, {}) == [".a: 1 became None"]
