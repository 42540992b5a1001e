"""The Dockerfile keeps its promises: pinned bases, a numeric user, no shell, nothing of a host."""

import re

import pytest

from slm_dev.images.base import USER_ID
from slm_dev.images.build import build_arguments
from slm_dev.images.context import CHECKOUT, let_through

FOLDED = (CHECKOUT / "Dockerfile").read_text().replace("\\\n", " ")
LINES = [line for line in FOLDED.splitlines() if line and not line.startswith("#")]
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def arguments() -> dict[str, str]:
    """Those with a default, before the first stage."""
    pairs = (line.removeprefix("ARG ").partition("=") for line in LINES if line[:4] == "ARG ")
    return {name: default for name, _, default in pairs if default}


def stage(name: str) -> list[str]:
    """The instructions of one stage."""
    start = next(i for i, line in enumerate(LINES) if line.endswith(f" AS {name}"))
    rest = LINES[start + 1 :]
    end = next((i for i, line in enumerate(rest) if line.startswith("FROM ")), len(rest))
    return rest[:end]


def stages() -> list[str]:
    return [line.rpartition(" ")[2] for line in LINES if line.startswith("FROM ")]


def test_every_base_is_an_argument_pinned_by_the_digest_argument_beside_it() -> None:
    for line in (line for line in LINES if line.startswith("FROM ")):
        source = line.split()[1]
        own_stage = source in stages()
        pinned = re.fullmatch(r"\$\{(\w+)_IMAGE\}@\$\{\1_DIGEST\}", source)
        assert own_stage or pinned, line


def test_every_digest_has_a_default_that_is_one() -> None:
    defaults = arguments()
    for name, default in defaults.items():
        if name.endswith("_DIGEST"):
            inherited = re.fullmatch(r"\$\{(\w+)\}", default)
            assert DIGEST.fullmatch(defaults[inherited[1]] if inherited else default), name


def test_no_base_names_a_registry() -> None:
    for name, default in arguments().items():
        first = default.partition("/")[0]
        assert "." not in first or ":" in first.partition(".")[0], name


def test_a_build_without_a_registry_replaces_every_base() -> None:
    bases = {"localhost/slm-base": "sha256:1", "localhost/slm-build": "sha256:2"}

    given = build_arguments(bases)

    assert set(arguments()) <= set(given)


@pytest.mark.parametrize("target", ["operator", "worker"])
def test_an_image_runs_as_a_numeric_user_that_is_not_root(target: str) -> None:
    users = [line for line in stage(target) if line.startswith("USER ")]

    assert users == [f"USER {USER_ID}:{USER_ID}"]


@pytest.mark.parametrize("target", ["operator", "worker"])
def test_an_image_is_made_and_started_without_a_shell(target: str) -> None:
    instructions = stage(target)

    assert not [line for line in instructions if line.startswith(("RUN", "SHELL", "HEALTHCHECK"))]
    for line in instructions:
        if line.startswith(("ENTRYPOINT", "CMD")):
            assert line.partition(" ")[2].strip().startswith("[")


@pytest.mark.parametrize("target", ["operator", "worker"])
def test_an_image_tells_what_it_is(target: str) -> None:
    labels = " ".join(line for line in stage(target) if line.startswith("LABEL "))

    for name in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{name}=" in labels


def test_python_packages_are_installed_from_lists_with_hashes() -> None:
    for line in LINES:
        if line.startswith("RUN") and " install " in line and "--no-index" not in line:
            assert "--require-hashes" in line, line
            assert "--only-binary :all:" in line, line


def test_nothing_is_copied_but_what_the_context_lets_through() -> None:
    allowed = let_through((CHECKOUT / ".dockerignore").read_text())
    for line in LINES:
        if line.startswith("COPY ") and "--from=" not in line:
            for source in line.split()[1:-1]:
                assert source in allowed, line
        for mounted in re.findall(r"/context/(\S+)", line):
            assert mounted in allowed, line


@pytest.mark.parametrize("target", ["operator", "worker"])
def test_the_last_stage_does_nothing_that_depends_on_its_base(target: str) -> None:
    """So that what it adds can be moved onto another base."""
    for line in stage(target):
        word, _, rest = line.partition(" ")
        assert word in {"LABEL", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}, line
        assert word != "COPY" or rest.startswith("--from="), line
