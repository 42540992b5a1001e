"""By which token the requests of a long-lived client go, whose kubeconfig's user gets others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import client
from kubernetes.aio.config.exec_provider import ExecProvider

import kubeconfigs
from slm_operator.cluster import kubeconfig as subject
from slm_operator.cluster.configuration import configuration
from slm_operator.cluster.connection import KubeError

LONG_AGO = {"expirationTimestamp": "2020-01-01T00:00:00Z"}
LONG_AFTER = {"expirationTimestamp": "2100-01-01T00:00:00Z"}


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two requests, enough for another look."""
    monkeypatch.setattr(subject, "LOOK_SECONDS", 0.0)


async def settings_of(directory: Path, user: Mapping[str, Any]) -> client.Configuration:
    return await configuration(kubeconfigs.written(directory / "config", user=user))


async def authorization(settings: client.Configuration) -> str:
    """By which a request is sent."""
    sent = await settings.get_api_key_with_prefix("BearerToken")
    assert isinstance(sent, str)
    return sent


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        (LONG_AGO, ["Bearer token-2", "Bearer token-3"]),
        (LONG_AFTER, ["Bearer token-1", "Bearer token-1"]),
        ({}, ["Bearer token-2", "Bearer token-3"]),
    ],
    ids=["it ends", "it does not end yet", "nothing is said of its end"],
)
@pytest.mark.usefixtures("time_passes")
async def test_a_token_of_a_command_is_renewed_in_time(
    tmp_path: Path, said: dict[str, str], tokens: list[str]
) -> None:
    user = kubeconfigs.user_of_a_command(tmp_path / "asked", **said)
    settings = await settings_of(tmp_path, user)
    assert [await authorization(settings) for _ in tokens] == tokens


async def test_a_command_is_not_run_again_soon_after(tmp_path: Path) -> None:
    user = kubeconfigs.user_of_a_command(tmp_path / "asked", **LONG_AGO)
    settings = await settings_of(tmp_path, user)
    assert await authorization(settings) == "Bearer token-1"


@pytest.mark.usefixtures("time_passes")
async def test_requests_at_once_share_one_run_of_the_command(tmp_path: Path) -> None:
    user = kubeconfigs.user_of_a_command(tmp_path / "asked", **LONG_AGO)
    settings = await settings_of(tmp_path, user)
    sent = await asyncio.gather(*(authorization(settings) for _ in range(16)))
    assert sent == ["Bearer token-2"] * 16


@pytest.mark.usefixtures("time_passes")
async def test_requests_go_on_with_the_last_token_while_one_run_of_the_command_hangs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    user = kubeconfigs.user_of_a_command(tmp_path / "asked", **LONG_AGO)
    settings = await settings_of(tmp_path, user)
    runs, answered = 0, asyncio.Event()

    async def hang(command: ExecProvider) -> dict[str, str]:
        nonlocal runs
        runs += 1
        await answered.wait()
        return {"token": "late", **LONG_AFTER}

    monkeypatch.setattr(ExecProvider, "run", hang)
    monkeypatch.setattr(subject, "PATIENCE_SECONDS", 0.01)
    with caplog.at_level(logging.WARNING, logger=subject.__name__):
        async with asyncio.timeout(5):
            sent = [await authorization(settings) for _ in range(3)]
    assert (sent, runs) == (["Bearer token-1"] * 3, 1)
    assert "the last one is used" in caplog.text
    answered.set()
    monkeypatch.setattr(subject, "PATIENCE_SECONDS", 5.0)
    assert await authorization(settings) == "Bearer late"


async def test_a_command_that_fails_is_named_and_nobody_connects_as_nobody(tmp_path: Path) -> None:
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "false"}
    with pytest.raises(KubeError, match="command false gave neither a token nor a certificate"):
        await settings_of(tmp_path, {"exec": command})


async def test_what_else_a_user_has_stands_in_for_a_command_that_fails(tmp_path: Path) -> None:
    command = {"apiVersion": "client.authentication.k8s.io/v1", "command": "false"}
    settings = await settings_of(tmp_path, {"exec": command, "token": "own"})
    assert await authorization(settings) == "Bearer own"


@pytest.mark.usefixtures("time_passes")
async def test_a_token_is_read_anew_from_its_file_unless_that_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    settings = await settings_of(tmp_path, {"tokenFile": "token"})
    token.write_text("second")
    assert await authorization(settings) == "Bearer second"
    token.unlink()
    assert await authorization(settings) == "Bearer second"
    assert "no newer token" in caplog.text
