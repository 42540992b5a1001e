"""A token that changes while the agent runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from fake_agent import FakeAgent
from slm_worker.server import make_app
from slm_worker.token_file import MAX_TOKEN_CHARACTERS, TokenFile

FIRST, SECOND = "first-" + "a" * 16, "second-" + "b" * 16


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(FIRST)
    return path


async def test_a_new_token_counts_from_the_next_request_on_and_the_old_one_no_more(
    file: Path,
) -> None:
    app = make_app(FakeAgent(), TokenFile(file).current)
    async with TestClient(TestServer(app)) as client:

        async def answer(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return (await client.get("/v1/pack", headers=headers)).status

        assert [await answer(FIRST), await answer(SECOND)] == [200, 401]
        file.write_text(SECOND)
        assert [await answer(FIRST), await answer(SECOND)] == [401, 200]


def gone(file: Path) -> None:
    file.unlink()


def emptied(file: Path) -> None:
    file.write_text("")


def garbled(file: Path) -> None:
    file.write_bytes(b"\xff" * 64)


@pytest.mark.parametrize("spoil", [gone, emptied, garbled])
def test_while_the_file_holds_no_token_the_last_one_counts(
    spoil: Callable[[Path], None], file: Path
) -> None:
    token = TokenFile(file)
    spoil(file)
    assert token.current() == FIRST
    file.write_text(SECOND)
    assert token.current() == SECOND


def test_no_more_is_read_than_a_token_needs(file: Path) -> None:
    file.write_text("x" * 10 * MAX_TOKEN_CHARACTERS)
    assert len(TokenFile(file).current()) == MAX_TOKEN_CHARACTERS
