"""The chart's Grafana dashboards, as JSON."""

from __future__ import annotations

import json

from slm_dev.dashboards import fleet, service
from slm_dev.dashboards.frame import dashboard


def dashboards() -> dict[str, str]:
    """JSON by the name of the file."""
    found = {
        "service.json": dashboard(
            "slm-service", "SLM service", service.ROWS, service.VARIABLES, (service.DECISIONS,)
        ),
        "fleet.json": dashboard("slm-fleet", "SLM fleet and operator", fleet.ROWS),
    }
    return {name: json.dumps(one, indent=1) + "\n" for name, one in found.items()}
