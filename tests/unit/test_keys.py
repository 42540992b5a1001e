"""The operator's key, the tokens that come of it, and its change at run time."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from slm_operator.keys import BadKeyError, Keys, Tokens, agent_token

FIRST, SECOND, THIRD = "first-" + "a" * 32, "second-" + "b" * 32, "third-" + "c" * 32


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text(f"{FIRST}\n")
    return path


def test_tokens_are_the_same_after_a_restart_and_different_for_each_object_and_key() -> None:
    assert agent_token(FIRST, "u1") == agent_token(FIRST, "u1")
    assert len({agent_token(FIRST, "u1"), agent_token(FIRST, "u2"), agent_token(SECOND, "u1")}) == 3


def test_a_changed_file_gives_new_tokens_and_the_former_beside_them(file: Path) -> None:
    keys = Keys.from_file(file)
    assert keys.tokens("u1") == Tokens(agent_token(FIRST, "u1"))
    file.write_text(SECOND)
    assert keys.tokens("u1") == Tokens(agent_token(SECOND, "u1"), agent_token(FIRST, "u1"))
    file.write_text(THIRD)
    assert keys.tokens("u1") == Tokens(agent_token(THIRD, "u1"), agent_token(SECOND, "u1"))


@pytest.mark.parametrize("content", [None, b"", b"short", b"\xff" * 64])
def test_a_spoilt_file_leaves_the_key_and_is_told_once(
    content: bytes | None, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys.from_file(file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    with caplog.at_level(logging.INFO):
        assert [keys.tokens("u1"), keys.tokens("u1")] == [Tokens(agent_token(FIRST, "u1"))] * 2
    assert len(caplog.messages) == 1 and "the key stays as it was" in caplog.text


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory): mount the key's Secret there"),
        (b"hunter2", "has 7 characters, at least 32 are needed"),
        (b"hunter2" + b"\xff" * 64, "holds no text: write the key as letters and digits"),
    ],
)
def test_what_is_wrong_at_the_start_is_named_and_the_key_is_not(
    content: bytes | None, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadKeyError) as caught:
        Keys.from_file(file)
    assert told in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_neither_key_nor_token_is_shown_by_chance(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keys.from_file(file)
    file.write_text(SECOND)
    with caplog.at_level(logging.DEBUG):
        tokens = keys.tokens("u1")
    shown = f"{keys!r} {tokens!r} {caplog.text}"
    secrets = (FIRST, SECOND, tokens.current, tokens.former or "")
    assert [secret for secret in secrets if secret in shown] == []
