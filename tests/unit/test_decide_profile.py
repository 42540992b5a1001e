"""What one service measured, and how the next one of its configuration begins with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import pack, pack_state, service
from decide_world import World
from profile_builders import NOW, SEARCH_SECONDS, learned
from slm_operator.api.models import SLMService
from slm_operator.decide.calibrate import profile_to_read
from slm_operator.decide.decision import Decision
from slm_operator.decide.fingerprint import profile_key
from slm_operator.decide.profile_record import (
    MOST_BYTES,
    MOST_POINTS,
    MOST_PROFILES,
    Profile,
    ProfileError,
    decode,
    encode,
    merged,
    oldest,
    same_findings,
)
from slm_operator.decide.snapshot import Snapshot, StoredProfile
from slm_worker.wire import Load

KNEE = (2, 2, 256)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return learned()


def begun(profile: Profile | str, spec: dict[str, Any] | None = None, key: str = "") -> World:
    """Another service, which finds ``profile``."""
    world = World(service(spec, name="second", uid="u2"))
    text = profile if isinstance(profile, str) else encode(profile)
    world.profile = StoredProfile(
        key or (profile.key if isinstance(profile, Profile) else "k"), text
    )
    return world


def reasons(decision: Decision) -> list[str]:
    return [entry.reason for entry in decision.status.history]


def told(decision: Decision, reason: str) -> str:
    (found,) = (e.message for e in decision.status.history if e.reason == reason)
    return found


def test_a_search_that_ends_leaves_its_points_once(profile: Profile) -> None:
    world = World(service())
    left = [d.profile for _ in range(SEARCH_SECONDS * 2) if (d := world.tick()).profile]
    assert left == [profile]
    assert [(p.layout_replicas, p.replicas_per_pack) for p in profile.points] == [
        (3, 2),
        (3, 3),
        (1, 1),
        (2, 2),
    ]
    assert (profile.chosen.replicas_per_pack, profile.chosen.max_num_seqs) == (2, 256)
    assert profile.written_by == "chat"


def test_a_second_service_settles_after_one_window_at_the_known_knee(profile: Profile) -> None:
    world = begun(profile)
    decision = world.run(SEARCH_SECONDS)
    assert world.probed == [KNEE, KNEE], "measured once, then without the load"
    assert reasons(decision) == ["ProfileUsed", "KneeFound"]
    assert "chat measured on" in told(decision, "ProfileUsed")
    assert decision.status.calibration is not None
    assert decision.status.calibration.phase == "Done"
    assert decision.status.recommended_replicas_per_pack == 2
    assert len(decision.status.frontier) == len(profile.points)


def test_what_confirms_a_profile_is_not_written_again(profile: Profile) -> None:
    world = begun(profile)
    assert [d for _ in range(SEARCH_SECONDS) if (d := world.tick()).profile] == []


def test_an_operator_restarted_in_the_window_goes_on_with_it(profile: Profile) -> None:
    world = begun(profile)
    world.run(3)
    world.memory = type(world.memory)()
    assert reasons(world.run(SEARCH_SECONDS)) == ["ProfileUsed", "KneeFound"]
    assert set(world.probed) == {KNEE}


def test_a_gpu_that_is_a_little_slower_takes_the_points_over_at_its_pace(profile: Profile) -> None:
    world = begun(profile)
    world.pace = 0.95
    decision = world.run(SEARCH_SECONDS)
    assert reasons(decision) == ["ProfileUsed", "KneeFound"]
    by_probe = [
        sorted(points, key=lambda p: (p.layout_replicas, p.replicas_per_pack))
        for points in (profile.points, decision.status.frontier)
    ]
    for before, after in zip(*by_probe, strict=True):
        expected = before.output_tokens_per_second * 0.95
        assert after.output_tokens_per_second == pytest.approx(expected, rel=0.01)
        assert after.power_watts is not None and before.power_watts is not None
        assert after.power_watts == pytest.approx(before.power_watts * 0.95, rel=0.01)


def test_a_window_that_contradicts_the_profile_begins_the_search(profile: Profile) -> None:
    world = begun(profile)
    world.pace = 0.7
    decision = world.run(SEARCH_SECONDS)
    assert world.probed[0] == KNEE
    assert (3, 2, 256) in world.probed, "the walk"
    assert reasons(decision)[0] == "ProfileRejected"
    assert reasons(decision)[-1] == "KneeFound"
    assert "7,449 output tok/s here, and 10,642" in told(decision, "ProfileRejected")
    assert world.probed.count(KNEE) == 2, "the window that contradicted counts"


def test_a_rejected_profile_is_replaced_by_what_was_found(profile: Profile) -> None:
    world = begun(profile)
    world.pace = 0.7
    (left,) = [d.profile for _ in range(SEARCH_SECONDS) if (d := world.tick()).profile]
    assert merged(encode(profile), left, NOW) == left


@pytest.mark.parametrize(
    ("autoscaling", "knee"),
    [({"objective": "MinEnergyPerToken"}, 2), ({"minThroughputGainPercent": 40}, 1)],
    ids=["least energy", "a replica has to gain 40 %"],
)
def test_the_knee_is_that_of_what_is_asked_for_here(
    profile: Profile, autoscaling: dict[str, Any], knee: int
) -> None:
    world = begun(profile, {"autoscaling": {"maxReplicasPerPack": 4, **autoscaling}})
    decision = world.run(SEARCH_SECONDS)
    assert decision.status.recommended_replicas_per_pack == knee
    assert world.probed[0] == (knee, knee, 256)


def test_a_profile_that_does_not_cover_what_may_run_is_ignored_and_said(profile: Profile) -> None:
    wider = {"autoscaling": {"maxReplicasPerPack": 4, "minReplicasPerPack": 3}}
    decision = begun(profile, wider).run(5)
    assert "leaves open what may run here" in told(decision, "ProfileIgnored")


def test_a_knee_that_cannot_be_started_here_leads_to_a_search(profile: Profile) -> None:
    world = begun(profile, {"autoscaling": {"maxReplicasPerPack": 4}})
    world.max_replicas = 1
    decision = world.run(SEARCH_SECONDS)
    assert decision.status.recommended_replicas_per_pack == 1


def changed(profile: Profile, **values: Any) -> str:
    return json.dumps(json.loads(encode(profile)) | values)


def with_point(profile: Profile, **values: Any) -> str:
    document = json.loads(encode(profile))
    document["points"][0] |= values
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lambda p: "{", "the text: Invalid JSON"),
        (lambda p: "[]", "the text: "),
        (lambda p: changed(p, version=2), "version: Input should be 1"),
        (lambda p: changed(p, key="other"), "it is of another configuration, other"),
        (lambda p: changed(p, points=[]), "points: "),
        (lambda p: changed(p, points=None), "points: "),
        (lambda p: " " * MOST_BYTES + encode(p), "it has more than 32,768 bytes"),
        (
            lambda p: with_point(p, outputTokensPerSecond=0),
            "points.outputTokensPerSecond: 0 is not between 1 and",
        ),
        (
            lambda p: with_point(p, outputTokensPerSecond=10**400),
            "points.",
        ),
        (lambda p: with_point(p, replicasPerPack=99), "points.replicasPerPack: 99 is not between"),
        (lambda p: with_point(p, powerWatts=-1), "points.powerWatts: -1 is not between"),
        (
            lambda p: with_point(p, measuredAt="2027-01-01T00:00:00Z"),
            "points.measuredAt: 2027-01-01T00:00:00Z has not been yet",
        ),
        (lambda p: with_point(p, measuredAt="soon"), "points.measuredAt: 'soon' is no time"),
        (
            lambda p: with_point(p, measuredAt="2026-01-01T00:00:00"),
            "points.measuredAt: '2026-01-01T00:00:00' has no time zone",
        ),
        (lambda p: with_point(p, ttftP95="ages"), "points.0.ttftP95: "),
        (lambda p: with_point(p, simulated=False), "its points are real"),
    ],
)
def test_what_is_foreign_or_damaged_is_ignored_and_said(
    profile: Profile, text: Any, words: str
) -> None:
    world = begun(text(profile), key=profile.key)
    decision = world.run(SEARCH_SECONDS)
    assert words in told(decision, "ProfileIgnored")
    assert reasons(decision).count("ProfileIgnored") == 1
    assert world.probed[0] == (3, 2, 256)
    assert reasons(decision)[-1] == "KneeFound"


def test_a_profile_that_may_not_be_read_is_said(profile: Profile) -> None:
    world = begun(profile)
    world.profile = StoredProfile(profile.key, None, "Forbidden: no")
    assert "it could not be read: Forbidden: no" in told(world.run(5), "ProfileIgnored")


def test_points_of_more_than_a_week_ago_do_not_count(profile: Profile) -> None:
    document = json.loads(encode(profile))
    for point in document["points"]:
        point["measuredAt"] = "2025-12-20T00:00:00Z"
    decision = begun(json.dumps(document), key=profile.key).run(5)
    assert "measured more than 7 days ago" in told(decision, "ProfileIgnored")


def asked_key(wanted: SLMService, **state: Any) -> str:
    return profile_to_read(Snapshot(wanted, NOW, (pack(pack_state(**state)),)))


def test_a_profile_is_read_only_before_anything_is_measured(profile: Profile) -> None:
    assert asked_key(service()) == profile.key
    found = World(service()).run(SEARCH_SECONDS).status
    assert asked_key(service(status=found)) == ""


@pytest.mark.parametrize(
    "spec",
    [
        {"replicasPerPack": 2, "autoscaling": None},
        {"autoscaling": {"calibration": {"when": "Live"}}},
        {"autoscaling": {"calibration": {"when": "Never"}}},
    ],
    ids=["fixed", "live", "never"],
)
def test_who_sends_no_load_needs_no_profile(spec: dict[str, Any]) -> None:
    assert asked_key(service(spec)) == ""


def test_a_pack_that_is_silent_or_has_not_opened_its_gpu_has_no_key() -> None:
    assert profile_to_read(Snapshot(service(), NOW, (pack(),))) == ""
    assert asked_key(service(), packing=None) == ""


def lengths(prompt_tokens: int, output_tokens: int) -> str:
    load = Load(prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    return profile_key(service(), "w", pack_state(), load)


def test_services_of_one_configuration_share_a_key_whatever_their_name_and_objective() -> None:
    other = service(
        {"autoscaling": {"objective": "MinEnergyPerToken", "maxReplicasPerPack": 2}}, name="b"
    )
    assert asked_key(other) == asked_key(service())


@pytest.mark.parametrize(
    ("spec", "state"),
    [
        ({"model": {"uri": "hf://facebook/opt-350m"}}, {}),
        ({"model": {"uri": "hf://facebook/opt-1.3b", "revision": "r"}}, {}),
        ({"engine": {"kind": "Simulated", "args": ["--max-model-len=9"]}}, {}),
        ({"engine": {"kind": "Simulated", "image": "other"}}, {}),
        ({"gpu": {"kind": "Simulated", "memoryReserve": "1Gi"}}, {}),
        ({"autoscaling": {"calibration": {"promptTokens": 1000}}}, {}),
        ({}, {"version": "1"}),
        ({}, {"gpu": pack_state().gpu.model_copy(update={"name": "L4"})}),
    ],
    ids=["model", "revision", "arguments", "image", "memory", "lengths", "worker", "GPU"],
)
def test_another_configuration_has_another_key(spec: dict[str, Any], state: dict[str, Any]) -> None:
    assert asked_key(service(spec), **state) != asked_key(service())


def test_near_lengths_share_a_key_and_far_ones_do_not() -> None:
    assert lengths(128, 256) == lengths(130, 250)
    assert lengths(128, 256) != lengths(170, 256)
    assert lengths(128, 256) != lengths(128, 350)


@given(tokens=st.integers(1, 10_000), ratio=st.floats(1.32, 10))
def test_lengths_a_third_apart_never_share_a_key(tokens: int, ratio: float) -> None:
    further = max(tokens + 1, round(tokens * ratio))
    if further / tokens > 1.3:
        assert lengths(tokens, 256) != lengths(further, 256)


def test_points_beyond_the_own_ones_are_kept_at_the_pace_of_the_newer(profile: Profile) -> None:
    own = profile.model_copy(
        update={
            "points": tuple(
                p.model_copy(
                    update={"output_tokens_per_second": round(p.output_tokens_per_second * 1.02)}
                )
                for p in profile.points[2:]
            )
        }
    )
    whole = merged(encode(profile), own, NOW)
    assert whole.points[2:] == own.points
    assert whole.points[0].output_tokens_per_second == pytest.approx(
        profile.points[0].output_tokens_per_second * 1.02, rel=0.001
    )


def test_points_that_share_no_probe_are_not_mixed(profile: Profile) -> None:
    own = profile.model_copy(update={"points": profile.points[:1]})
    stored = profile.model_copy(update={"points": profile.points[1:]})
    assert merged(encode(stored), own, NOW) == own


def test_a_damaged_entry_is_replaced(profile: Profile) -> None:
    assert merged("{", profile, NOW) == profile
    assert not same_findings("{", profile, NOW)
    assert same_findings(encode(profile), profile, NOW)
    later = profile.model_copy(update={"written_at": NOW, "written_by": "b"})
    assert same_findings(encode(profile), later, NOW), "who and when is no news"


def test_no_more_points_are_kept_than_an_entry_may_hold(profile: Profile) -> None:
    def many(first: int) -> Profile:
        points = tuple(
            profile.points[0].model_copy(update={"max_num_seqs": n + 1})
            for n in range(first, first + MOST_POINTS - 1)
        )
        return profile.model_copy(update={"points": points})

    whole = merged(encode(many(0)), many(20), NOW)
    assert len(whole.points) == MOST_POINTS
    assert len(encode(whole).encode()) <= MOST_BYTES
    assert decode(profile.key, encode(whole), NOW) == whole


def test_where_there_are_too_many_the_unreadable_go_and_then_the_oldest(profile: Profile) -> None:
    def entry(key: str, day: int) -> str:
        written_at = f"2026-01-{day:02}T00:00:00Z"
        return encode(profile.model_copy(update={"key": key, "written_at": written_at}))

    entries = {f"k{n}": entry(f"k{n}", n + 1) for n in range(MOST_PROFILES - 1)}
    assert oldest(entries, "new", NOW) == ()
    assert oldest(entries | {"bad": "{"}, "new", NOW) == ("bad",)
    assert oldest(entries | {"bad": "{", "z": entry("z", 28)}, "new", NOW) == ("bad", "k0")
    assert oldest(entries | {"z": entry("z", 28)}, "k0", NOW) == ()


@given(
    text=st.text(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["version", "key", "points", "chosen", "x"]), inner)
        ),
    ).map(json.dumps)
)
def test_no_text_is_too_strange_to_be_ignored(text: str) -> None:
    with pytest.raises(ProfileError):
        decode("k", text, NOW)
