"""Objects as API servers hold them from earlier releases are read by this one, with all they say.

The fixtures are frozen: a release that cannot read them needs a new version of the API.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slm_operator.api.models import SLMService
from slm_operator.decide.points import read
from stored_objects import V1ALPHA1, lost


def test_there_are_objects_of_the_first_version() -> None:
    assert {p.stem for p in V1ALPHA1} == {"fixed", "following-demand", "smallest"}


@pytest.mark.parametrize("path", V1ALPHA1, ids=lambda path: path.stem)
def test_a_stored_object_is_read_and_written_back_with_all_it_says(path: Path) -> None:
    obj = json.loads(path.read_text())
    service = SLMService.from_object(obj)
    spec = service.spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert lost(obj["spec"], spec, "spec") == []
    assert lost(obj.get("status", {}), service.status.to_object(), "status") == []


def test_the_points_of_a_stored_object_still_count() -> None:
    (path,) = [p for p in V1ALPHA1 if p.stem == "following-demand"]
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
