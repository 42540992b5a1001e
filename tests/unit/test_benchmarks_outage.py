"""What the outage benchmark computes by itself: what was created how often, figures by part."""

import json
from array import array
from collections import Counter

from benchmarks.outage import Course, created_by, figures
from benchmarks.rollout_rig.clients import Count, p99_of


def audited(name: str, *, verb: str = "create", code: int = 201, resource: str = "pods") -> str:
    return json.dumps(
        {
            "verb": verb,
            "user": {"username": "slm-operator"},
            "objectRef": {"resource": resource, "namespace": "default", "name": name},
            "responseStatus": {"code": code},
        }
    )


def test_what_the_operator_created_is_counted_by_object() -> None:
    log = [
        audited("chat-pack-0"),
        audited("chat-pack-1"),
        audited("chat-pack-1"),
        audited("chat-pack-1", code=409),
        audited("chat", verb="patch", resource="services"),
        audited("chat", verb="patch", code=200, resource="services"),
        audited("chat.1", resource="events"),
        audited("chat-pack-2").replace("slm-operator", "admin"),
        json.dumps({"verb": "get", "user": {"username": "slm-operator"}}),
    ]
    assert created_by("slm-operator", log) == {
        "pods default/chat-pack-0": 1,
        "pods default/chat-pack-1": 2,
        "services default/chat": 1,
    }


def test_what_exists_more_often_than_once_is_a_figure() -> None:
    created = Counter({"pods default/chat-pack-0": 1, "pods default/chat-pack-1": 2})
    one = array("d", [0.5])
    course = Course(Count(seconds=one), before=one, during=one, after=one, created=created)
    shown = figures(course)
    assert (shown["packs_created"], shown["created_twice"]) == (3, 1)


def test_at_most_one_in_a_hundred_is_above_the_p99() -> None:
    assert p99_of(array("d", range(200, 0, -1))) == 199
