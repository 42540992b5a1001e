"""docs/reference is what `make docs` makes of the models and command lines as they are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from slm_dev.reference import FOLDER, pages
from slm_dev.reference.schema import bounds, default, fields, kind
from slm_dev.reference.slmservice import message
from slm_operator.api.crd import crd

ROOT = Path(__file__).resolve().parents[2]
PAGES = pages()
SCHEMA = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_it_would_be_made_now(name: str) -> None:
    assert (ROOT / FOLDER / name).read_text() == PAGES[name], "make docs"


def test_the_index_is_the_only_page_that_is_written_by_hand() -> None:
    assert {path.name for path in (ROOT / FOLDER).iterdir()} == {*PAGES, "README.md"}
    index = (ROOT / FOLDER / "README.md").read_text()
    assert [name for name in PAGES if f"({name})" not in index] == []


def test_every_field_of_the_spec_has_a_description() -> None:
    found = list(fields("spec", SCHEMA))
    assert len(found) > 60
    assert [each.path for each in found if not each.schema.get("description")] == []


def test_a_field_tells_type_bounds_and_default() -> None:
    schema = {each.path: each.schema for each in fields("spec", SCHEMA)}
    packs, args = schema["spec.packs"], schema["spec.engine.args"]
    assert (kind(packs), bounds(packs), default(packs)) == ("integer", "1 to 64", "`1`")
    assert kind(args) == "list of string"
    assert bounds(args) == "at most 64 entries; each 1 to 1024 characters"
    assert bounds(schema["spec.gpu.kind"]) == "`NVIDIA`, `CPU`, `Simulated`"
    assert "spec.engine.env[].name" in schema


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("'a + b'", "a + b"),
        ('"a is \'" + self + "\': remove it"', "a is '…': remove it"),
        ("'has ' + (self + '=').substring(0, 1) + \"!\"", "has …!"),
        (r'"so \"quoted\""', 'so "quoted"'),
    ],
)
def test_a_message_of_a_rule_is_put_into_words(expression: str, words: str) -> None:
    assert message(expression) == words


def test_each_row_of_a_table_has_as_many_cells_as_its_head() -> None:
    for name, page in PAGES.items():
        for part in page.split("\n\n"):
            rows = [line.replace("\\|", "") for line in part.splitlines() if line[:2] == "| "]
            assert len({row.count("|") for row in rows}) <= 1, (name, part[:200])


def test_no_page_depends_on_the_environment_of_whoever_makes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A default that is read from the environment would be written down as the default."""
    for variable in ("SLM_WORKER_IMAGE", "SLM_OPERATOR_KEY_FILE", "KUBECONFIG"):
        monkeypatch.setenv(variable, "of this machine")
    assert pages() == PAGES
