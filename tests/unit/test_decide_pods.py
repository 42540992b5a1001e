"""Which Pods are created and deleted, and in which order."""

from __future__ import annotations

from dataclasses import replace

from builders import pack, pack_state
from slm_operator.decide.pods import pod_changes
from slm_operator.decide.snapshot import Pack


def ready(*ordinals: int) -> list[Pack]:
    """Packs created in this order."""
    return [
        pack(pack_state(), ordinal, created=f"2026-01-01T00:00:{second:02d}Z")
        for second, ordinal in enumerate(ordinals)
    ]


def deleted(packs: list[Pack], wanted: int, exploring: Pack | None = None) -> list[int]:
    return [p.ordinal for p in pod_changes(packs, wanted, "t", exploring).delete]


def test_missing_packs_are_created_under_the_lowest_free_numbers() -> None:
    assert pod_changes([], 2, "t").create == (0, 1)
    changes = pod_changes(ready(0, 5), 4, "t")
    assert (changes.create, changes.delete) == ((1, 2), ())


def test_those_that_start_count() -> None:
    starting = pack(None, 1)
    changes = pod_changes([*ready(0), starting], 2, "t")
    assert (changes.create, changes.delete) == ((), ())


def test_of_surplus_packs_the_newest_goes_first() -> None:
    assert deleted(ready(0, 1, 2), 2) == [2]
    assert deleted(ready(2, 0, 1), 2) == [1]


def test_one_that_does_not_serve_goes_before_any_that_does() -> None:
    assert deleted([replace(ready(0)[0], ready=False), *ready(1)], 1) == [0]


def test_the_pack_that_explores_stays_while_another_can_go() -> None:
    packs = ready(0, 1)
    assert deleted(packs, 1, exploring=packs[1]) == [0]
    changes = pod_changes([replace(packs[0], terminating=True), packs[1]], 1, "t", packs[1])
    assert (changes.create, changes.delete) == ((), ())
    assert pod_changes([packs[1]], 1, "t").create == ()


def test_a_number_is_used_again_once_its_pod_is_gone() -> None:
    going = replace(ready(0)[0], terminating=True)
    assert pod_changes([going], 1, "t").create == ()
    assert pod_changes([], 1, "t").create == (0,)


def test_a_pack_that_goes_already_is_not_deleted_again() -> None:
    first, second = ready(0, 1)
    assert pod_changes([first, replace(second, terminating=True)], 1, "t").delete == ()


def test_outdated_packs_are_replaced_one_at_a_time() -> None:
    old = [pack(pack_state(), i, template_hash="old") for i in range(3)]
    assert deleted(old, 3) == [0]
    assert deleted([replace(old[0], terminating=True), *old[1:]], 3) == []


def test_an_outdated_pack_that_does_not_serve_is_replaced_too() -> None:
    assert deleted([pack(None, template_hash="old")], 1) == [0]


def test_a_pack_that_ended_is_removed_to_be_created_anew() -> None:
    changes = pod_changes([pack(None, ended=True)], 1, "t")
    assert ([p.ordinal for p in changes.delete], changes.create) == ([0], ())
