"""What a rule compared, in the units that people read. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from slm_operator.api.status import Compared
from slm_operator.pareto.rulings import Quantity


@dataclass(frozen=True)
class _Words:
    """How a quantity is told."""

    unit: str
    per_unit: float
    """How many of the status' units make one of these."""
    decimals: int
    wanted: str
    """What a point would have to do with a bound."""
    did: str

    def number(self, value: int) -> str:
        return f"{value / self.per_unit:,.{self.decimals}f}"


_WORDS = {
    Quantity.OUTPUT_TOKENS_PER_SECOND: _Words("tok/s", 1, 0, "serve more than", "served"),
    Quantity.MICROJOULES_PER_OUTPUT_TOKEN: _Words("J/token", 1e6, 4, "spend less than", "spent"),
    Quantity.POWER_WATTS: _Words("W", 1, 0, "draw at most", "drew"),
    Quantity.TTFT_P95_MICROSECONDS: _Words("ms TTFT p95", 1000, 1, "keep", "had"),
    Quantity.ITL_P95_MICROSECONDS: _Words("ms ITL p95", 1000, 1, "keep", "had"),
    Quantity.ITL_P99_MICROSECONDS: _Words("ms ITL p99", 1000, 1, "keep", "had"),
    Quantity.PREEMPTIONS_PER_HUNDRED_REQUESTS: _Words(
        "preemptions a hundred requests", 1, 0, "keep within", "had"
    ),
}


def both(compared: Compared) -> str:
    """The two numbers: ``10,642 against 8,371 tok/s``."""
    words = _words(compared)
    return f"{words.number(compared.value)} against {words.number(compared.bound)} {words.unit}"


def needed(compared: Compared) -> str:
    """What a point that lost would have had to show, and what it did."""
    words, value, bound = _words(compared), compared.value, compared.bound
    text = (
        f"would have to {words.wanted} {words.number(bound)} {words.unit}; it {words.did} "
        f"{words.number(value)}"
    )
    if not bound:
        return text
    return f"{text} ({abs(value / bound - 1):.1%} {'less' if value < bound else 'more'})"


def _words(compared: Compared) -> _Words:
    """A quantity of another release is told by its own name, which has the unit."""
    if compared.quantity in set(Quantity):
        return _WORDS[Quantity(compared.quantity)]
    return _Words(compared.quantity, 1, 0, "keep", "had")
