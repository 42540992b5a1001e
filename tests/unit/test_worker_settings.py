"""The agent's settings from its environment: what is wrong is named, secrets are not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from slm_worker.logs import JsonFormatter
from slm_worker.settings import SettingsError, read_settings

CONFIG = {
    "model": {"uri": "hf://facebook/opt-1.3b", "name": "opt"},
    "engine": {"kind": "Simulated"},
    "gpu": {"kind": "Simulated"},
}
TOKEN = "0123456789abcdef"


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    return {"SLM_PACK_CONFIG": json.dumps(CONFIG), "SLM_AGENT_TOKEN_FILE": str(token)}


def test_the_defaults(good: dict[str, str]) -> None:
    settings = read_settings(good)
    assert settings.config.model.name == "opt"
    assert settings.address == settings.engine_address == "127.0.0.1"
    assert settings.token.current() == TOKEN
    assert TOKEN not in repr(settings)


def test_compiled_kernels_are_kept_below_the_home_directory_or_on_the_volume_that_is_named(
    good: dict[str, str],
) -> None:
    assert read_settings(good | {"HOME": "/h"}).cache_dir == Path("/h/.cache/slm-engines")
    named = good | {"HOME": "/h", "SLM_ENGINE_CACHE": "/cache"}
    assert read_settings(named).cache_dir == Path("/cache")
    with pytest.raises(SettingsError, match="SLM_ENGINE_CACHE is 'cache': give the absolute path"):
        read_settings(good | {"SLM_ENGINE_CACHE": "cache"})


def test_a_key_of_the_engines_is_refused_without_being_told(good: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=r"VLLM_API_KEY is set, .* protect the service") as told:
        read_settings(good | {"VLLM_API_KEY": "hunter2"})
    assert "hunter2" not in str(told.value)
    read_settings(good | {"VLLM_API_KEY": ""})


@pytest.mark.parametrize(
    ("address", "engines"),
    [("10.1.2.3", "127.0.0.1"), ("127.0.0.7", "127.0.0.7"), ("fd00::7", "127.0.0.1")],
)
def test_engines_listen_on_loopback_only(address: str, engines: str, good: dict[str, str]) -> None:
    settings = read_settings(good | {"POD_IP": address})
    assert (settings.address, settings.engine_address) == (address, engines)


def test_packs_that_share_an_address_differ_in_their_ports_and_are_told_apart_by_them(
    good: dict[str, str],
) -> None:
    alone = read_settings(good)
    assert (alone.agent_port, alone.router_port, alone.pack_address) == (8080, 8000, "127.0.0.1")
    moved = read_settings(good | {"SLM_AGENT_PORT": "18080", "SLM_ROUTER_PORT": "18000"})
    assert (moved.agent_port, moved.router_port) == (18080, 18000)
    assert moved.pack_address == "127.0.0.1:18080"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"SLM_PACK_CONFIG": ""}, "SLM_PACK_CONFIG is not set: give"),
        ({"SLM_PACK_CONFIG": "{"}, "SLM_PACK_CONFIG: document is '{': Invalid JSON"),
        (
            {"SLM_PACK_CONFIG": json.dumps(CONFIG | {"gpu": {"kind": "AMD"}})},
            "gpu.kind is 'AMD': Input should be 'NVIDIA', 'CPU' or 'Simulated'",
        ),
        (
            {
                "SLM_PACK_CONFIG": json.dumps(
                    CONFIG | {"engine": {"kind": "vLLM", "args": ["--port=1"]}}
                )
            },
            "remove --port: the agent chooses",
        ),
        ({"SLM_AGENT_TOKEN_FILE": ""}, "SLM_AGENT_TOKEN_FILE is not set: name the file"),
        (
            {"SLM_AGENT_TOKEN_FILE": "/nowhere/token"},
            "SLM_AGENT_TOKEN_FILE is '/nowhere/token', which cannot be read (No such file or "
            "directory): mount the Secret",
        ),
        ({"POD_IP": "pod"}, "POD_IP is 'pod', which is no IP address"),
        ({"SLM_AGENT_PORT": "http"}, "SLM_AGENT_PORT is 'http': give a port from 1 to 65535"),
        ({"SLM_ROUTER_PORT": "0"}, "SLM_ROUTER_PORT is '0': give a port from 1 to 65535"),
        ({"SLM_ROUTER_PORT": "65536"}, "SLM_ROUTER_PORT is '65536': give a port"),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, str], told: str, good: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(good | changed)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"hunter2", b"hunter2 \xff with something that is no text"]
)
def test_a_file_without_a_token_is_named_and_not_quoted(
    content: bytes, good: dict[str, str]
) -> None:
    Path(good["SLM_AGENT_TOKEN_FILE"]).write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_settings(good)
    assert "which holds no token: write a random secret of at least 16" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_log_line_is_one_json_object() -> None:
    record = logging.LogRecord("slm", logging.INFO, "", 1, "two\nlines %d", (7,), None)
    record.replica = "3"
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert (
        json.loads(line).items()
        >= {
            "level": "info",
            "logger": "slm",
            "message": "two\nlines 7",
            "replica": 3,
        }.items()
    )
