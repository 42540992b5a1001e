"""PURE: the engine's arguments as far as they decide its memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from slm_worker.planning.model_config import ModelError

Options = Mapping[str, str]

_LENGTH_UNITS = {"k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20}
_SHORT = {"-q": "--quantization", "-sc": "--speculative-config"}
_SWITCHES = frozenset(
    {"disable-hybrid-kv-cache-manager", "enable-chunked-prefill", "enable-lora", "enforce-eager"}
)
_READ = (
    _SWITCHES
    | {f"no-{name}" for name in _SWITCHES}
    | {"block-size", "dtype", "kv-cache-dtype", "kv-cache-dtype-skip-layers", "kv-transfer-config"}
    | {"max-lora-rank", "max-loras", "max-model-len", "max-num-batched-tokens"}
    | {"performance-mode", "quantization", "spec-method", "spec-model", "speculative-config"}
)
"""Names that are looked up here or elsewhere in planning; none of vLLM's others begins one."""
_MOST_DIGITS = 12
"""Of a number: with hundreds of them, bytes would leave the range of a float."""
_DRAFT_WITHOUT_MODEL = frozenset({"ngram", "[ngram]", "ngram_gpu", "suffix"})


def parse_options(args: Sequence[str]) -> Options:
    """``--name value`` and ``--name=value``; names with _ for - or shortened as vLLM takes them;
    last wins. ``--name.key value`` is an entry of its own."""
    options: dict[str, str] = {}
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        name, dot, key = name.partition(".")
        name = _SHORT.get(name, name)
        if not name.startswith("--"):
            continue
        if not equals:
            value = args[index + 1] if index + 1 < len(args) else ""
        name = _in_full(name[2:].replace("_", "-")) + dot + key
        options.pop(name, None)  # so that the order tells the last
        options[name] = value
    return options


def _in_full(name: str) -> str:
    longer = [known for known in _READ if known.startswith(name)]
    return longer[0] if name not in _READ and len(longer) == 1 else name


def switched(options: Options, name: str, *, default: bool) -> bool:
    """``--name`` or ``--no-name``; given both, the last."""
    state = default
    for option in options:
        if option in (name, f"no-{name}"):
            state = option == name
    return state


def choice(options: Options, name: str, values: Mapping[str, int], default: str) -> int:
    """Raises ModelError (EngineArgsInvalid) for a value that is not among ``values``."""
    value = options.get(name, default)
    if value not in values:
        raise ModelError(
            "EngineArgsInvalid",
            f"engine.args: --{name} {value!r} is unknown: use one of {', '.join(values)}.",
        )
    return values[value]


def token_count(options: Options, name: str) -> int | None:
    """A number of tokens as vLLM reads it; None where the engine decides. Raises ModelError
    (EngineArgsInvalid)."""
    given = options.get(name, "auto")
    if given in {"auto", "-1"}:
        return None
    digits, unit = (
        (given[:-1], _LENGTH_UNITS[given[-1]]) if given[-1:] in _LENGTH_UNITS else (given, 1)
    )
    try:
        length = int(float(digits) * unit) if unit > 1 else int(digits)
    except (ValueError, OverflowError):
        length = 0
    if not 1 <= length < 10**_MOST_DIGITS:
        raise ModelError(
            "EngineArgsInvalid",
            f"engine.args: --{name} {given!r} is no token count: write a whole number such "
            "as 4096, or one with k, m (thousands) or K, M (binary).",
        )
    return length


def whole_number(options: Options, name: str, default: int) -> int:
    """Raises ModelError (EngineArgsInvalid)."""
    given = options.get(name, str(default))
    if given.isascii() and given.isdigit() and len(given) <= _MOST_DIGITS and int(given):
        return int(given)
    raise ModelError(
        "EngineArgsInvalid",
        f"engine.args: --{name} {given!r} is no number above 0 of at most {_MOST_DIGITS} digits: "
        f"write one such as {default}.",
    )


def drafts_by_model(options: Options) -> bool:
    """Whether a further model, or further layers of the same, propose tokens (speculative
    decoding)."""
    prefix = "speculative-config."
    entries = {
        name.removeprefix(prefix): _json_or_text(value)
        for name, value in options.items()
        if name.startswith(prefix)
    }
    whole = _json_or_text(options.get("speculative-config", "{}"))
    # vLLM makes one object of the entries and puts it last; what is no object it refuses.
    settings = entries or (whole if isinstance(whole, dict) else {})
    method, model = (settings.get(key, options.get(f"spec-{key}")) for key in ("method", "model"))
    proposer = method or model
    return proposer is not None and str(proposer) not in _DRAFT_WITHOUT_MODEL


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
