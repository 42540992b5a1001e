"""Which Pods are created and deleted, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import pack, pack_state
from slm_operator.decide import pods
from slm_operator.decide.pods import PodChanges, Templates, packs_with_a_place
from slm_operator.decide.snapshot import Pack, Trouble

CURRENT = Templates(frozenset({"t"}))
TRYING = Templates(frozenset({"old"}), canary="t")
NOW = "2026-01-01T00:10:00Z"


def pod_changes(
    packs: list[Pack],
    wanted: int,
    templates: Templates = CURRENT,
    exploring: Pack | None = None,
) -> PodChanges:
    return pods.pod_changes(packs, wanted, templates, exploring, NOW)


def ready(*ordinals: int) -> list[Pack]:
    """Packs created in this order."""
    return [
        pack(pack_state(), ordinal, created=f"2026-01-01T00:00:{second:02d}Z")
        for second, ordinal in enumerate(ordinals)
    ]


def deleted(packs: list[Pack], wanted: int, exploring: Pack | None = None) -> list[int]:
    return [p.ordinal for p in pod_changes(packs, wanted, CURRENT, exploring).delete]


def test_missing_packs_are_created_under_the_lowest_free_numbers() -> None:
    assert pod_changes([], 2).create == (0, 1)
    changes = pod_changes(ready(0, 5), 4)
    assert (changes.create, changes.delete) == ((1, 2), ())


def test_those_that_start_count() -> None:
    starting = pack(None, 1)
    changes = pod_changes([*ready(0), starting], 2)
    assert (changes.create, changes.delete) == ((), ())


def test_of_surplus_packs_the_newest_goes_first() -> None:
    assert deleted(ready(0, 1, 2), 2) == [2]
    assert deleted(ready(2, 0, 1), 2) == [1]


def test_one_that_does_not_serve_goes_before_any_that_does() -> None:
    assert deleted([replace(ready(0)[0], ready=False), *ready(1)], 1) == [0]


def test_while_paused_a_surplus_pack_of_another_template_goes_first() -> None:
    packs = [replace(ready(0)[0], template_hash="other"), *ready(1, 2)]
    paused = Templates(frozenset({"t"}), replaces=False)
    assert [p.ordinal for p in pod_changes(packs, 2, paused).delete] == [0]
    assert pod_changes(packs, 3, paused) == PodChanges()


def test_the_pack_that_explores_stays_while_another_can_go() -> None:
    packs = ready(0, 1)
    assert deleted(packs, 1, exploring=packs[1]) == [0]
    changes = pod_changes([replace(packs[0], terminating=True), packs[1]], 1, CURRENT, packs[1])
    assert (changes.create, changes.delete) == ((), ())
    assert pod_changes([packs[1]], 1).create == ()


def test_a_number_is_used_again_once_its_pod_is_gone() -> None:
    going = replace(ready(0)[0], terminating=True)
    assert pod_changes([going], 1).create == ()
    assert pod_changes([], 1).create == (0,)


def test_a_pack_that_goes_already_is_not_deleted_again() -> None:
    first, second = ready(0, 1)
    assert pod_changes([first, replace(second, terminating=True)], 1).delete == ()


def test_an_outdated_pack_that_does_not_serve_is_replaced_too() -> None:
    assert deleted([pack(None, template_hash="old")], 1) == [0]


def test_a_pack_that_ended_is_removed_to_be_created_anew() -> None:
    changes = pod_changes([pack(None, ended=True)], 1)
    assert ([p.ordinal for p in changes.delete], changes.create) == ([0], ())


def old(*ordinals: int) -> list[Pack]:
    return [replace(p, template_hash="old", uid=f"old{p.ordinal}") for p in ready(*ordinals)]


def test_a_new_pack_comes_before_an_outdated_one_goes() -> None:
    changes = pod_changes(old(0, 1), 2)
    assert (changes.create, changes.delete) == ((2,), ())
    starting = pack(None, 2)
    assert pod_changes([*old(0, 1), starting], 2) == PodChanges()
    changes = pod_changes([*old(0, 1), *ready(2)], 2)
    assert (changes.create, [p.ordinal for p in changes.delete]) == ((), [0])


def test_the_next_one_waits_until_the_last_is_gone_with_its_gpu() -> None:
    going = replace(old(0)[0], terminating=True, ready=False)
    assert pod_changes([going, *old(1), *ready(2)], 2) == PodChanges()
    assert pod_changes([*old(1), *ready(2)], 2).create == (0,)


def test_where_no_gpu_is_free_an_outdated_pack_makes_room_first() -> None:
    full = replace(CURRENT, places=2)
    assert deleted_by([*old(0, 1), pack(None, 2)], full) == [2]
    assert deleted_by(old(0, 1), full) == [0]
    going = replace(old(0)[0], terminating=True, ready=False)
    assert pod_changes([going, *old(1)], 2, full) == PodChanges()
    assert pod_changes(old(1), 2, full).create == (0,)
    assert pod_changes([pack(None, 0), *old(1)], 2, full) == PodChanges()
    assert deleted_by([*ready(0), *old(1)], full) == [1]


def test_packs_that_found_no_gpu_before_are_not_waited_for() -> None:
    """Three are wanted and two GPUs are there."""
    full = replace(CURRENT, places=2)
    assert deleted_by([*old(0, 1), pack(None, 2)], full, wanted=3) == [2]
    assert deleted_by(old(0, 1), full, wanted=3) == [0]


def deleted_by(packs: list[Pack], templates: Templates, wanted: int = 2) -> list[int]:
    changes = pod_changes(packs, wanted, templates)
    assert changes.create == ()
    return [p.ordinal for p in changes.delete]


def test_one_pack_is_tried_beside_the_others() -> None:
    changes = pod_changes(old(0, 1), 2, TRYING)
    assert (changes.create, changes.canary, changes.delete) == ((), (2,), ())
    for canary in (pack(None, 2), *ready(2)):
        assert pod_changes([*old(0, 1), canary], 2, TRYING) == PodChanges()


def test_a_lost_pack_is_made_again_as_it_was_while_another_template_is_tried() -> None:
    changes = pod_changes([*old(0), *ready(2)], 2, TRYING)
    assert (changes.create, changes.canary) == ((1,), ())


def test_the_canary_of_a_full_cluster_takes_a_packs_place() -> None:
    full = replace(TRYING, places=2)
    changes = pod_changes([*old(0, 1), pack(None, 2)], 2, full)
    assert [p.ordinal for p in changes.delete] == [1]
    assert pod_changes([*old(0), *ready(2)], 2, full) == PodChanges()


def test_a_canary_that_failed_goes_and_what_made_room_for_it_comes_back() -> None:
    back = Templates(frozenset({"old"}))
    changes = pod_changes([*old(0, 1), pack(None, 2)], 2, back)
    assert (changes.create, [p.ordinal for p in changes.delete]) == ((), [2])
    full = replace(back, places=2)
    changes = pod_changes([*old(0), pack(None, 2)], 2, full)
    assert (changes.create, [p.ordinal for p in changes.delete]) == ((), [2])
    assert pod_changes(old(0), 2, full).create == (1,)


def test_while_paused_packs_stay_and_missing_ones_are_made() -> None:
    paused = replace(CURRENT, replaces=False)
    assert pod_changes(old(0, 1), 2, paused) == PodChanges()
    assert pod_changes(old(0), 2, paused).create == (1,)
    assert pod_changes(old(0, 1), 2, replace(TRYING, replaces=False)) == PodChanges()


def test_a_pack_on_a_lost_node_does_not_block_its_successor() -> None:
    ended_by = {"in time": "2026-01-01T00:09:30Z", "long ago": "2026-01-01T00:08:00Z"}
    going = [
        replace(ready(0)[0], terminating=True, ready=False, ends_by=at) for at in ended_by.values()
    ]
    assert [pod_changes([p], 1).create for p in going] == [(), (1,)]
    assert pod_changes([going[1], *ready(1)], 1) == PodChanges()
    assert pod_changes([going[1], *old(1)], 1).create == (2,)


class Cluster:
    """Pods that start and end in their own time, on as many GPUs as there are."""

    def __init__(self, gpus: int, wanted: int, starts: list[int]) -> None:
        self.gpus, self.wanted, self.starts = gpus, wanted, starts
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.packs: list[Pack] = old(*range(min(gpus, wanted)))
        self.ages: dict[str, int] = {}
        self.count = 0
        self.places: int | None = None

    def step(self, templates: Templates) -> PodChanges:
        self.now += timedelta(seconds=1)
        now = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        templates = replace(templates, places=self.places)
        changes = pods.pod_changes(self.packs, self.wanted, templates, None, now)
        gone = {p.uid for p in changes.delete}
        self.packs = [
            replace(p, terminating=True, ready=False) if p.uid in gone else p
            for p in self.packs
            if not p.terminating
        ]
        for ordinal in changes.create:
            assert ordinal not in {p.ordinal for p in self.packs}
            self.count += 1
            self.packs.append(pack(None, ordinal, uid=f"n{self.count}", address="", created=now))
        on_gpu = [p for p in self.packs if p.ready or p.terminating or p.address]
        self.packs = list(self._advanced(len(on_gpu)))
        return changes

    def _advanced(self, busy: int) -> Iterator[Pack]:
        for p in self.packs:
            if p.address == "" and not p.terminating:
                if busy >= self.gpus and self.places is None:
                    # What decide/rollout.py concludes from the scheduler's words after a while.
                    self.places = busy
                if busy >= self.gpus:
                    yield p
                    continue
                busy += 1
                self.ages[p.uid] = self.starts[len(self.ages) % len(self.starts)]
                p = replace(p, address="a")
            elif not p.ready and not p.terminating:
                self.ages[p.uid] -= 1
                p = replace(p, ready=self.ages[p.uid] <= 0)
            yield p


@given(st.integers(1, 5), st.integers(1, 5), st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_every_rollout_ends_and_takes_at_most_one_pack_away(
    gpus: int, wanted: int, starts: list[int]
) -> None:
    cluster = Cluster(gpus, wanted, starts)
    fewest = min(gpus, wanted) - (1 if gpus <= wanted else 0)
    for _ in range(400):
        cluster.step(CURRENT)
        assert sum(p.ready for p in cluster.packs) >= fewest
        if all(p.template_hash == "t" for p in cluster.packs) and fewest >= 0:
            break
    else:
        pytest.fail(f"still {cluster.packs}")
    for _ in range(40):
        cluster.step(CURRENT)
    assert sum(p.ready for p in cluster.packs) == min(gpus, wanted)


@pytest.mark.parametrize("places", [None, 1, 2])
def test_at_zero_nothing_stays_whatever_a_rollout_is_about(places: int | None) -> None:
    alive = [
        replace(one, template_hash=h)
        for one, h in zip(ready(0, 1, 2), ("old", "t", "x"), strict=True)
    ]
    for templates in (CURRENT, TRYING):
        changes = pod_changes(alive, 0, replace(templates, places=places))
        assert changes == PodChanges(delete=tuple(alive))


NO_NODE = Trouble("Unschedulable", "no node has a free GPU")


def waiting(*ordinals: int, created: str = "2025-12-31T23:54:59Z") -> list[Pack]:
    """Packs that no node takes, for longer than one may take to come."""
    return [pack(None, o, scheduling=NO_NODE, created=created) for o in ordinals]


def waiting_not_long(*ordinals: int) -> list[Pack]:
    return waiting(*ordinals, created="2025-12-31T23:55:00Z")


def going(*ordinals: int, ends_by: str = "2026-01-01T00:10:30Z") -> list[Pack]:
    return [replace(each, terminating=True, ends_by=ends_by) for each in ready(*ordinals)]


@pytest.mark.parametrize(
    ("packs", "wanted", "placed"),
    [
        pytest.param(ready(0, 1, 2), 3, 3, id="all have a node"),
        pytest.param([*ready(0, 1), *waiting(2, 3)], 4, 2, id="two that no node takes"),
        pytest.param(waiting(0, 1), 2, 0, id="none has a node"),
        pytest.param([*ready(0), *waiting_not_long(1)], 2, 2, id="one for which a node may come"),
        pytest.param([*ready(0), pack(None, 1)], 2, 2, id="one that starts"),
        pytest.param([*ready(0), pack(None, 1, node=NO_NODE)], 2, 2, id="one on a silent node"),
        pytest.param(ready(0), 3, 3, id="two that are made in this pass"),
        pytest.param([], 3, 3, id="all are made in this pass"),
        pytest.param(ready(0, 1, 2, 3), 2, 2, id="surplus ones"),
        pytest.param([], 0, 0, id="none is wanted"),
    ],
)
def test_packs_with_a_place_are_those_that_the_scheduler_did_not_refuse_for_long(
    packs: list[Pack], wanted: int, placed: int
) -> None:
    changes = pod_changes(packs, wanted)
    assert packs_with_a_place(packs, changes, wanted, refused=False, now=NOW) == placed


def test_a_pack_that_is_evicted_keeps_its_place_until_another_has_it() -> None:
    """What a drain goes by is the same all the while, so no second pack may go meanwhile."""
    starts = pack(None, 2)
    evicted, pending = [*ready(0, 1), *going(2)], [*ready(0, 1), *waiting_not_long(2)]
    for packs in (ready(0, 1, 2), evicted, ready(0, 1), pending, [*ready(0, 1), starts]):
        changes = pod_changes(packs, 3)
        assert packs_with_a_place(packs, changes, 3, refused=False, now=NOW) == 3
    nowhere = [*ready(0, 1), *waiting(2)]
    assert packs_with_a_place(nowhere, pod_changes(nowhere, 3), 3, refused=False, now=NOW) == 2


def test_a_pack_that_went_with_its_node_has_no_place_any_more() -> None:
    lost = going(1, ends_by="2026-01-01T00:08:00Z")
    packs = [*ready(0), *lost, *waiting(2)]
    assert packs_with_a_place(packs, pod_changes(packs, 2), 2, refused=False, now=NOW) == 1


def test_a_pack_that_the_api_server_refuses_for_long_has_no_place() -> None:
    packs = ready(0, 1)
    assert packs_with_a_place(packs, pod_changes(packs, 4), 4, refused=True, now=NOW) == 2
