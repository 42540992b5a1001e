"""How long a search may take. One that was cut short stays so: begun again at once, it would put
its load on the pack for ever."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from slm_operator.api.models import SLMService
from slm_operator.decide.times import moment
from slm_operator.decide.traffic import POINT_LIFETIME, Traffic

MOST_SEARCH_TIME = timedelta(hours=4)
"""A search with 16 windows takes an hour where each layout starts for minutes; what takes longer is
stuck, and the pack serves better with what is known."""


@dataclass(frozen=True)
class SearchClock:
    began: str | None = None
    """When the search began that is open or was cut short; None: what is open begins now."""
    out_of_time: bool = False


def search_clock(
    service: SLMService, same_configuration: bool, edited: bool, traffic: Traffic, now: str
) -> SearchClock:
    """``edited``: the spec allows other layouts than it did. A search is another one after that, a
    change of the configuration or the traffic, and when what was measured then is out of date."""
    before = service.status.calibration
    if before is None or before.searching_since is None:
        return SearchClock()
    if edited or not same_configuration or traffic.shift is not None:
        return SearchClock()
    began = before.searching_since
    took = moment(now) - moment(began)
    if took > POINT_LIFETIME:
        return SearchClock()
    own_load = service.autoscaling.calibration.when == "OnStart"
    return SearchClock(began, own_load and took > MOST_SEARCH_TIME)
