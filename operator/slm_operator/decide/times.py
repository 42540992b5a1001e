"""Times as objects of Kubernetes have them."""

from __future__ import annotations

from datetime import datetime


def moment(timestamp: str) -> datetime:
    """``timestamp``: RFC 3339. Raises ValueError."""
    return datetime.fromisoformat(timestamp)
