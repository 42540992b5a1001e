"""PURE: whose an object is, by its owner references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slm_operator.api.models import GROUP, KIND

Reference = Mapping[str, Any]


def controller_of(metadata: Mapping[str, Any]) -> Reference | None:
    """The one that looks after the object."""
    owners = metadata.get("ownerReferences") or ()
    return next((owner for owner in owners if owner.get("controller")), None)


def is_service(owner: Reference, name: str) -> bool:
    """Whether it is an SLMService of that name, be it this one or a former one."""
    group = owner["apiVersion"].partition("/")[0]
    return (group, owner["kind"], owner["name"]) == (GROUP, KIND, name)
