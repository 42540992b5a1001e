"""Where profiles are kept: which entries are read, written and removed, and by which manager."""

from __future__ import annotations

from typing import Any

import pytest

from profile_builders import NOW, learned
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.profiles import CONFIG_MAP, Profiles
from slm_operator.decide.profile_record import MOST_PROFILES, Profile, decode, encode


class OneConfigMap:
    """Server-side apply of one ConfigMap: a field goes when the last manager lets go of it."""

    def __init__(self) -> None:
        self.owned: dict[str, dict[str, str]] = {}
        """By manager."""
        self.foreign: dict[str, str] = {}
        self.writes = 0
        self.refusal: KubeError | None = None

    @property
    def data(self) -> dict[str, str]:
        return self.foreign | {k: v for data in self.owned.values() for k, v in data.items()}

    async def get(self, api: str, kind: str, name: str, namespace: str) -> Any:
        assert (kind, name, namespace) == ("ConfigMap", CONFIG_MAP, "team-a")
        if self.refusal is not None:
            raise self.refusal
        if not self.data:
            raise KubeError(404, "NotFound", name)
        return {"data": self.data}

    async def apply(self, obj: Any, *, force: bool, manager: str) -> Any:
        assert force
        assert obj["metadata"]["labels"]["serving.slm.dev/profiles"] == "v1"
        assert "ownerReferences" not in obj["metadata"], "it outlives the service"
        assert len(manager) <= 128
        self.writes += 1
        self.owned[manager] = obj["data"]


@pytest.fixture(scope="module")
def profile() -> Profile:
    return learned()


@pytest.fixture
def kube() -> OneConfigMap:
    return OneConfigMap()


@pytest.fixture
def profiles(kube: OneConfigMap) -> Profiles:
    return Profiles(kube)  # type: ignore[arg-type]


def of(profile: Profile, key: str, written_at: str = NOW) -> Profile:
    return profile.model_copy(update={"key": key, "written_at": written_at})


async def test_what_is_kept_is_what_is_read(profiles: Profiles, profile: Profile) -> None:
    assert (await profiles.read("team-a", profile.key)).text is None
    await profiles.keep("team-a", profile, NOW)
    found = await profiles.read("team-a", profile.key)
    assert found.text is not None
    assert decode(profile.key, found.text, NOW) == profile


async def test_what_is_no_news_is_not_written(
    kube: OneConfigMap, profiles: Profiles, profile: Profile
) -> None:
    await profiles.keep("team-a", profile, NOW)
    await profiles.keep("team-a", of(profile, profile.key, "2026-01-02T00:00:00Z"), NOW)
    assert kube.writes == 1


async def test_services_of_two_configurations_take_nothing_from_each_other(
    kube: OneConfigMap, profiles: Profiles, profile: Profile
) -> None:
    await profiles.keep("team-a", of(profile, "a"), NOW)
    await profiles.keep("team-a", of(profile, "b"), NOW)
    kube.foreign["notes"] = "by hand"
    await profiles.keep("team-a", of(profile, "c"), NOW)
    assert set(kube.data) == {"a", "b", "c", "notes"}


async def test_the_oldest_goes_when_there_are_too_many(
    kube: OneConfigMap, profiles: Profiles, profile: Profile
) -> None:
    for n in range(MOST_PROFILES + 3):
        written_at = f"2026-01-01T00:{n:02}:00Z"
        await profiles.keep("team-a", of(profile, f"k{n}", written_at), NOW)
    assert set(kube.data) == {f"k{n}" for n in range(3, MOST_PROFILES + 3)}


async def test_a_damaged_entry_is_replaced(
    kube: OneConfigMap, profiles: Profiles, profile: Profile
) -> None:
    kube.owned["somebody"] = {profile.key: "{"}
    assert (await profiles.read("team-a", profile.key)).text == "{"
    await profiles.keep("team-a", profile, NOW)
    assert kube.owned[f"slm-profile-{profile.key}"] == {profile.key: encode(profile)}


async def test_a_refusal_is_told_and_an_outage_is_raised(
    kube: OneConfigMap, profiles: Profiles
) -> None:
    kube.refusal = KubeError(403, "Forbidden", "no right to get configmaps")
    assert "no right to get configmaps" in (await profiles.read("team-a", "k")).trouble
    for status in (0, 429, 503):
        kube.refusal = KubeError(status, "Unavailable", "later")
        with pytest.raises(KubeError):
            await profiles.read("team-a", "k")
