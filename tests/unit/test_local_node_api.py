"""How the local node follows a collection of the API server."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from slm_dev.local_node.api import ApiError, ApiServer, Change, Listing, persist

Events = list[dict[str, Any] | ApiError]


def event(kind: str, name: str, version: str) -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": version}}}


class ScriptedApi(ApiServer):
    """Answers each listing and each watch with the next one of its script."""

    def __init__(self, listings: list[list[str] | ApiError], watches: list[Events]) -> None:
        super().__init__(Path("unused"))
        self._listings = iter(enumerate(listings))
        self._watches = iter(watches)
        self.watched_from: list[str] = []

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        number, names = next(self._listings)
        if isinstance(names, ApiError):
            raise names
        items = [{"metadata": {"name": name}} for name in names]
        return {"items": items, "metadata": {"resourceVersion": f"list-{number}"}}

    async def _watch(
        self, path: str, query: Mapping[str, str], version: str
    ) -> AsyncIterator[dict[str, Any]]:
        self.watched_from.append(version)
        for each in next(self._watches):
            if isinstance(each, ApiError):
                raise each
            yield each


async def first(api: ScriptedApi, count: int) -> list[str]:
    """What is seen first: names in brackets for a listing, a sign and a name for a change."""
    seen: list[str] = []
    async with contextlib.aclosing(api.follow("/things")) as events:
        async for each in events:
            match each:
                case Listing(items):
                    seen.append(str([item["metadata"]["name"] for item in items]))
                case Change(item, gone):
                    seen.append(("-" if gone else "+") + item["metadata"]["name"])
            if len(seen) == count:
                break
    return seen


async def test_changes_follow_the_listing_and_bookmarks_are_kept_to_itself() -> None:
    watch: Events = [event("ADDED", "b", "2"), event("BOOKMARK", "", "3")]
    api = ScriptedApi([["a"]], [watch, [event("DELETED", "a", "4")]])

    assert await first(api, 3) == ["['a']", "+b", "-a"]
    assert api.watched_from == ["list-0", "3"]


@pytest.mark.parametrize("error", [ApiError(410, "too old"), ApiError(0, "connection reset")])
async def test_after_an_interruption_everything_is_listed_again(error: ApiError) -> None:
    api = ScriptedApi([["a"], ApiError(0, "refused"), ["b"]], [[error], [event("ADDED", "c", "9")]])

    assert await first(api, 3) == ["['a']", "['b']", "+c"]
    assert api.watched_from == ["list-0", "list-2"]


async def test_a_write_is_tried_until_it_succeeds() -> None:
    answers = iter([ApiError(0, "refused"), ApiError(503, "starting"), None])

    async def attempt() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    await persist("write", attempt)
    assert list(answers) == []


async def test_a_write_to_what_is_gone_is_done() -> None:
    async def attempt() -> None:
        raise ApiError(404, "not found")

    await persist("write", attempt)


async def test_a_refused_write_is_not_tried_again() -> None:
    async def attempt() -> None:
        raise ApiError(422, "invalid")

    with pytest.raises(ApiError, match=r"invalid \(HTTP 422\)"):
        await persist("write", attempt)
