"""A machine with nothing but a fake Go toolchain and the programs that a test puts there."""

from pathlib import Path

# PATH holds nothing but the test's own folder, so other programs are named in full.
FAKE_GO = """#!/bin/sh
if [ "$1" = env ]; then printf '%s\\nlinux\\namd64\\n' VERSION; exit; fi
echo "$@" >> CALLS
while [ "$1" != -o ]; do shift; done
BODY
"""
COMPILES = 'echo "k8s.io/one" >&2; echo "k8s.io/two" >&2; : > "$2"; /bin/chmod +x "$2"'


def put_program(folder: Path, name: str, text: str = "#!/bin/sh\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


class Machine:
    """A PATH folder, a cache folder and a fake Go that notes how often it builds."""

    def __init__(self, root: Path) -> None:
        self.path = root / "path"
        self.path.mkdir()
        self.cache = root / "cache"
        self.calls = root / "calls"
        self.said: list[str] = []

    def put_go(self, version: str = "go1.26.8", body: str = COMPILES) -> None:
        script = FAKE_GO.replace("VERSION", version).replace("CALLS", str(self.calls))
        put_program(self.path, "go", script.replace("BODY", body))

    def builds(self) -> int:
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0
