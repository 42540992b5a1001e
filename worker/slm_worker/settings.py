"""The agent's settings, read from its environment."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from slm_worker.engine.factory import EngineUnusableError, refuse_owned_arguments
from slm_worker.owned_arguments import ENGINE_API_KEY, OWNED_ENGINE_ARGUMENTS
from slm_worker.token_file import MIN_TOKEN_CHARACTERS, TokenFile
from slm_worker.wire import (
    ADDRESS_VARIABLE,
    AGENT_PORT,
    AGENT_PORT_VARIABLE,
    CACHE_VARIABLE,
    CONFIG_VARIABLE,
    ROUTER_PORT,
    ROUTER_PORT_VARIABLE,
    TOKEN_FILE_VARIABLE,
    PackConfig,
)

DEFAULT_ADDRESS = "127.0.0.1"
LOOPBACK = "127.0.0.1"
MAX_PORT = 65535


class SettingsError(Exception):
    """The text names the variable, its fault and the remedy; never the token."""


@dataclass(frozen=True)
class AgentSettings:
    config: PackConfig
    token: TokenFile = field(repr=False)
    address: str
    """Where agent and router listen."""
    cache_dir: Path
    """Where engines keep compiled kernels."""
    agent_port: int
    router_port: int

    @property
    def pack_address(self) -> str:
        """What only one agent at a time can hold: the address of its API."""
        return (
            self.address if self.agent_port == AGENT_PORT else f"{self.address}:{self.agent_port}"
        )

    @property
    def engine_address(self) -> str:
        """Where engines listen: nobody but the router shall reach them. Packs that share a host
        for development each have a loopback address of their own."""
        return self.address if ipaddress.ip_address(self.address).is_loopback else LOOPBACK


def read_settings(environment: Mapping[str, str]) -> AgentSettings:
    """Raises SettingsError."""
    if environment.get(ENGINE_API_KEY):
        raise SettingsError(
            f"{ENGINE_API_KEY} is set, and engines would inherit it: remove it, and "
            f"{OWNED_ENGINE_ARGUMENTS['--api-key']}"
        )
    return AgentSettings(
        config=_config(environment.get(CONFIG_VARIABLE, "")),
        token=_token(environment.get(TOKEN_FILE_VARIABLE, "")),
        address=_address(environment.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS),
        cache_dir=_cache_dir(environment),
        agent_port=_port(environment, AGENT_PORT_VARIABLE, AGENT_PORT),
        router_port=_port(environment, ROUTER_PORT_VARIABLE, ROUTER_PORT),
    )


def _cache_dir(environment: Mapping[str, str]) -> Path:
    """Below the home directory, where models are downloaded too, unless a volume is named."""
    given = environment.get(CACHE_VARIABLE)
    if given and not given.startswith("/"):
        raise SettingsError(
            f"{CACHE_VARIABLE} is {given!r}: give the absolute path where a volume is mounted"
        )
    home = environment.get("HOME") or tempfile.gettempdir()
    return Path(given) if given else Path(home) / ".cache" / "slm-engines"


def _config(text: str) -> PackConfig:
    if not text:
        raise SettingsError(
            f"{CONFIG_VARIABLE} is not set: give the pack's configuration as JSON with model, "
            "engine and gpu"
        )
    try:
        config = PackConfig.model_validate_json(text)
        refuse_owned_arguments(config.engine.args)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'document'} is {fault.get('input')!r:.100}: "
            f"{fault['msg']}"
            for fault in error.errors(include_url=False, include_context=False)
        )
        raise SettingsError(f"{CONFIG_VARIABLE}: {faults}; correct it") from None
    except EngineUnusableError as error:
        raise SettingsError(f"{CONFIG_VARIABLE}: {error.message}") from None
    return config


def _token(path: str) -> TokenFile:
    if not path:
        raise SettingsError(
            f"{TOKEN_FILE_VARIABLE} is not set: name the file with the token that the operator "
            "sends"
        )
    try:
        return TokenFile(Path(path))
    except OSError as error:
        raise SettingsError(
            f"{TOKEN_FILE_VARIABLE} is {path!r}, which cannot be read ({error.strerror}): mount "
            "the Secret with the token there"
        ) from None
    except ValueError:  # its text could quote the file
        raise SettingsError(
            f"{TOKEN_FILE_VARIABLE} is {path!r}, which holds no token: write a random secret of at "
            f"least {MIN_TOKEN_CHARACTERS} letters and digits into it, the same that the operator "
            "sends"
        ) from None


def _address(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise SettingsError(
            f"{ADDRESS_VARIABLE} is {address!r}, which is no IP address: give the pod's own"
        ) from None
    return address


def _port(environment: Mapping[str, str], variable: str, default: int) -> int:
    given = environment.get(variable)
    if not given:
        return default
    if not given.isdecimal() or not 1 <= int(given) <= MAX_PORT:
        raise SettingsError(
            f"{variable} is {given!r}: give a port from 1 to {MAX_PORT}, or leave it out for "
            f"{default}"
        )
    return int(given)
