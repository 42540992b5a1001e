"""Secrets that the local node gives to containers as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_dev.local_node import mounts
from slm_dev.local_node.environment import ConfigError
from slm_dev.local_node.spec import SecretMount

MOUNT = SecretMount("/run/slm", "token")


def test_files_become_what_the_secret_holds(tmp_path: Path) -> None:
    folder = mounts.directory(tmp_path, MOUNT)
    mounts.write(folder, "token", {"token": "a", "other": "b"})
    mounts.write(folder, "token", {"token": "c"})
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"token": "c"}
    assert (folder / "token").stat().st_mode & 0o077 == 0


def test_a_missing_secret_is_what_the_kubelet_would_wait_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='secret "token" not found') as caught:
        mounts.write(tmp_path / "x", "token", None)
    assert caught.value.reason == "ContainerCreating"


@pytest.mark.parametrize(
    ("value", "led"),
    [
        ("/run/slm/token", "/home/x/token"),
        ("/run/slm", "/home/x"),
        ("/run/slmx/token", "/run/slmx/token"),
        ("--file=/run/slm/token", "--file=/run/slm/token"),
    ],
)
def test_variables_are_led_to_the_files(value: str, led: str) -> None:
    assert mounts.relocated({"A": value}, {"/run/slm": Path("/home/x")}) == {"A": led}
