"""Every metric is documented, and everything that is documented is exported."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from builders import pack_state
from slm_operator.activator.metrics import ActivatorMetrics
from slm_operator.metrics import Metrics
from slm_worker.pack_metrics import exposition
from slm_worker.wire import Counters, RoutedReplica, RouterState

PAGE = (Path(__file__).resolve().parents[2] / "docs/metrics.md").read_text()
PARTS = ("Operator", "Pack", "Activator")
ROW = re.compile(r"^\| `(slm_\w+)` \| (\w+) \|", re.MULTILINE)


def documented(title: str) -> dict[str, str]:
    """Types by name, of the section ``title``."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return dict(ROW.findall(section))


def exported(families: Iterable[Metric]) -> dict[str, str]:
    return {f.name + ("_total" if f.type == "counter" else ""): f.type for f in families}


def test_the_operators_metrics() -> None:
    assert documented("Operator") == exported(Metrics().registry.collect())


def test_the_packs_metrics() -> None:
    base = pack_state()
    measured = {"power_watts": 1.0, "memory_used_bytes": 1, "utilization_percent": 1}
    state = pack_state(
        router=RouterState(replicas=(RoutedReplica(index=0),)),
        counters=Counters(sampled_at_seconds=1.0, energy_millijoules=1),
        gpu=base.gpu.model_copy(update=measured),
    )
    families = text_string_to_metric_families(exposition(state).decode())
    assert documented("Pack") == exported(families)


def test_the_activators_metrics() -> None:
    assert documented("Activator") == exported(ActivatorMetrics(lambda: ()).registry.collect())


@pytest.mark.parametrize("name", [n for part in PARTS for n in documented(part)])
def test_names_end_with_their_base_unit(name: str) -> None:
    """As Prometheus' conventions have it: no milliseconds, no microjoules."""
    assert not re.search(r"_(ms|milli\w+|micro\w+|kb|mb|percent)(_|$)", name)
