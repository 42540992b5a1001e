"""Pods of others that have the labels of a service's packs.

Whoever may make Pods may give them any label, so labels alone get no Pod a token, and no end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from slm_operator.api.models import KIND, SLMService
from slm_operator.decide.snapshot import Pack
from slm_operator.render.children import MANAGED_BY_LABEL

log = logging.getLogger(__name__)


def without_strangers(
    service: SLMService, packs: Iterable[Pack], told: set[str]
) -> tuple[Pack, ...]:
    """The packs of the service, and of former ones of its name. ``told``: the UIDs of the others of
    which the log has told; it becomes those that are there."""
    found = tuple(packs)
    strangers = {pack.uid: pack for pack in found if not pack.owner_uid}
    for pack in (strangers[uid] for uid in strangers.keys() - told):
        log.warning(
            "%s/%s has the labels of a pack of %s, and no %s of that name is its controller, so it "
            "is left alone; it gets requests by the Service until its label %s is removed",
            service.namespace,
            pack.name,
            service.name,
            KIND,
            MANAGED_BY_LABEL,
        )
    told.clear()
    told.update(strangers)
    return tuple(pack for pack in found if pack.owner_uid)
