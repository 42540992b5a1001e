"""Secrets as files. Processes of the host see no mounts: each directory lies below the Pod's
folder, and variables that name it are led there."""

from collections.abc import Mapping
from pathlib import Path

from slm_dev.local_node.environment import ConfigError
from slm_dev.local_node.spec import SecretMount


def directory(home: Path, mount: SecretMount) -> Path:
    """Where the files of a mount are on this host."""
    return home / "mounts" / mount.path.strip("/").replace("/", "-")


def write(folder: Path, secret: str, data: Mapping[str, str] | None) -> None:
    """Makes the files what the Secret holds, each at once, as the kubelet does.

    Raises:
        ConfigError: there is no such Secret.
    """
    if data is None:
        # The kubelet goes on trying, and its Pod shows nothing but this.
        raise ConfigError("ContainerCreating", f'MountVolume.SetUp: secret "{secret}" not found')
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.name not in data:
            old.unlink()
    for key, text in data.items():
        path = folder / key
        if path.exists() and path.read_text() == text:
            continue
        new = folder / f".{key}.new"
        new.touch(mode=0o600)
        new.write_text(text)
        new.replace(path)


def relocated(variables: Mapping[str, str], moved: Mapping[str, Path]) -> dict[str, str]:
    """``variables`` with each path below a key of ``moved`` led to where that is."""
    return {name: _relocated(value, moved) for name, value in variables.items()}


def _relocated(value: str, moved: Mapping[str, Path]) -> str:
    for path, folder in moved.items():
        if value == path or value.startswith(f"{path}/"):
            return f"{folder}{value[len(path) :]}"
    return value
