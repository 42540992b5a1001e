"""The frontier as text and as SVG: what is on the picture, and that it fits."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli_builders import CPU_SPACE, settled, without_power
from slm_operator.cli.picture import Mark, Picture, axis, picture
from slm_operator.cli.plot import SYMBOLS, WIDTH, plot
from slm_operator.cli.svg import svg

marks = st.builds(
    Mark,
    x=st.integers(0, 1_000_000).map(float),
    y=st.integers(0, 10_000_000).map(lambda microjoules: microjoules / 1e6),
    label=st.sampled_from(["1×8", "32×4096"]),
    on_frontier=st.booleans(),
    chosen=st.booleans(),
    probed=st.booleans(),
)


def canvas(text: str) -> list[str]:
    """The rows between the title and the axis."""
    return [line for line in text.splitlines() if "│" in line or "┤" in line]


def test_a_rotations_probe_gives_way_to_its_own_layout() -> None:
    shown = picture(settled())
    assert sorted(m.label for m in shown.marks) == ["1×512", "2×256", "3×256"]
    assert next(m for m in shown.marks if m.label == "2×256").chosen


def test_energy_is_drawn_in_joules_and_marked_as_simulated() -> None:
    shown = picture(settled())
    assert shown.y_title == "J/output token"
    assert shown.x_title == "output tokens/s, simulated"
    assert next(m.y for m in shown.marks if m.chosen) == pytest.approx(0.0416, abs=1e-4)


def test_without_power_replicas_take_the_place_of_energy() -> None:
    shown = picture(settled(CPU_SPACE, without_power))
    assert shown.y_title == "replicas (power unknown)"
    assert {m.y for m in shown.marks} == {1.0, 2.0, 3.0}
    ticks = [line.partition("┤")[0].strip() for line in plot(shown).splitlines() if "┤" in line]
    assert ticks == ["3", "2", "1"]


def test_the_chosen_point_is_lower_right_of_the_beaten_one() -> None:
    rows = canvas(plot(picture(settled())))
    where = {}
    for number, row in enumerate(rows):
        for label in ("1×512", "2×256"):
            if label in row:
                where[label] = number, row.index(label)
    assert where["2×256"][0] > where["1×512"][0]
    assert where["2×256"][1] > where["1×512"][1]


def test_the_frontier_is_a_braille_line_between_its_marks() -> None:
    text = plot(picture(settled(CPU_SPACE, without_power)))
    assert any(0x2800 < ord(c) < 0x2900 for c in text)
    drawn = "".join(canvas(text))
    assert {kind: drawn.count(symbol) for kind, symbol in SYMBOLS.items()} == {
        "chosen": 1,
        "frontier": 1,
        "beaten": 1,
        "probed": 0,
    }


def test_both_axes_have_titles_and_the_symbols_a_legend() -> None:
    lines = plot(picture(settled())).splitlines()
    assert lines[0] == "J/output token"
    assert lines[-2].strip() == "output tokens/s, simulated"
    assert lines[-1].strip() == "◆ chosen   ○ beaten"
    assert re.search(r"8,000 +9,000 +10,000", lines[-3])


def test_nothing_measured_draws_nothing() -> None:
    assert plot(Picture((), "x", "y")) == ""


@given(st.lists(marks, min_size=1, max_size=12))
def test_any_picture_fits_its_width(some: list[Mark]) -> None:
    lines = plot(Picture(tuple(some), "output tokens/s", "J/output token")).splitlines()
    assert max(map(len, lines)) <= WIDTH


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=9), st.integers(4, 8))
def test_an_axis_holds_all_values_and_at_least_one_tick(values: list[float], about: int) -> None:
    drawn = axis(values, about)
    assert drawn.low <= min(values) <= max(values) <= drawn.high
    assert all(0 <= drawn.share(v) <= 1 for v in values)
    assert 1 <= len(drawn.ticks) <= about + 1
    assert all(math.isfinite(t) for t in drawn.ticks)


def test_the_ticks_of_an_axis_are_round_and_told_apart() -> None:
    drawn = axis([0.0416, 0.0452], about_ticks=5)
    assert [drawn.text(t) for t in drawn.ticks] == ["0.042", "0.043", "0.044", "0.045"]


def test_an_axis_needs_a_value() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        axis([], 5)


@pytest.mark.parametrize(
    "beside",
    [(16_751.0, 0.0306), (16_340.0, 0.0305), (16_330.0, 0.0306)],
    ids=["to the right", "below", "at the same place"],
)
def test_in_an_svg_no_label_hides_another(beside: tuple[float, float]) -> None:
    spots = {"1×256 of 4": (16_330.0, 0.0306), "1×512": beside, "4×256": (22_802.0, 0.0281)}
    marks = (Mark(x, y, name, on_frontier=False, chosen=False) for name, (x, y) in spots.items())
    root = ElementTree.fromstring(  # noqa: S314 - our own text
        svg(Picture(tuple(marks), "output tokens/s", "J/output token"), "title", "subtitle")
    )
    shares = {"start": 0.0, "middle": 0.5, "end": 1.0}
    boxes = {}
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        if text.text in spots:
            width = 7 * len(text.text)
            left = float(text.attrib["x"]) - shares[text.attrib["text-anchor"]] * width
            boxes[text.text] = left, left + width, float(text.attrib["y"])
    assert set(boxes) == set(spots)
    for (left, right, y), (other_left, other_right, other_y) in itertools.combinations(
        boxes.values(), 2
    ):
        assert right <= other_left or other_right <= left or abs(y - other_y) >= 13


def test_the_svg_is_well_formed_and_needs_nothing_from_outside() -> None:
    text = svg(picture(settled()), "2 replicas <on> one GPU", "OPT & H100")
    root = ElementTree.fromstring(text)  # noqa: S314 - our own text
    words = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"2 replicas <on> one GPU", "OPT & H100", "2×256", "J/output token"} <= set(words)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in text
