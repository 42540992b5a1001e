"""Writes the dashboards into the chart: `make dashboards`."""

from __future__ import annotations

from slm_dev.dashboards import dashboards
from slm_dev.monitoring import FILES

for name, text in dashboards().items():
    (FILES / "dashboards" / name).write_text(text)
