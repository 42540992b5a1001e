"""PURE: bodies of the OpenAI API as the simulated engine understands them, and what it answers.

There is no tokenizer: a text counts as one token for every four characters, the usual figure for
English. Token ids are counted as they are. Fields without a meaning here (temperature, stop, ...)
are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from slm_worker.engine.simulated.metrics import FinishReason

CHARACTERS_PER_TOKEN = 4
NATURAL_OUTPUT_TOKENS = 292
"""Where an answer ends by itself: the mean of the measured workload. ``ignore_eos`` goes on."""
DEFAULT_COMPLETION_TOKENS = 16
"""The completions API's default of max_tokens; chat has no other limit than the context."""

_WORDS = (
    "a",
    "small",
    "model",
    "would",
    "write",
    "its",
    "answer",
    "here,",
    "this",
    "one",
    "counts",
)


class RequestError(Exception):
    """A body that the engine refuses. ``status`` is the HTTP status, ``param`` the field."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param


class _StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    ignore_eos: bool = False
    n: Literal[1] = 1
    stream: bool = False
    stream_options: _StreamOptions | None = None


class _CompletionBody(_Body):
    prompt: str | list[int]

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, value: object) -> object:
        ids = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
        if value and (ids or isinstance(value, str)):
            return value
        raise ValueError("use one prompt, as a string or as a list of token ids, not empty")


class _TextPart(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: Annotated[str, Field(min_length=1)]
    content: str | list[_TextPart] | None = None

    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _ChatBody(_Body):
    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True)
class GenerationRequest:
    chat: bool
    prompt_tokens: int
    output_tokens: int
    reason: FinishReason
    stream: bool
    include_usage: bool


def parse_completion(body: Any, model_name: str, max_model_len: int) -> GenerationRequest:
    """``POST /v1/completions``. Raises RequestError."""
    parsed = _validate(_CompletionBody, body, model_name)
    tokens = _prompt_tokens(parsed)
    limit = parsed.max_tokens or DEFAULT_COMPLETION_TOKENS
    return _generation(parsed, tokens, limit, max_model_len, chat=False)


def parse_chat(body: Any, model_name: str, max_model_len: int) -> GenerationRequest:
    """``POST /v1/chat/completions``. Raises RequestError."""
    parsed = _validate(_ChatBody, body, model_name)
    tokens = _prompt_tokens(parsed)
    limit = parsed.max_completion_tokens or parsed.max_tokens or max(1, max_model_len - tokens)
    return _generation(parsed, tokens, limit, max_model_len, chat=True)


def prompt_tokens(body: Any, model_name: str) -> int:
    """``POST /tokenize``, with a prompt or with messages. Raises RequestError."""
    chat = isinstance(body, Mapping) and "messages" in body
    return _prompt_tokens(_validate(_ChatBody if chat else _CompletionBody, body, model_name))


def text(first: int, end: int) -> str:
    """The words of output tokens ``first`` to ``end`` - 1; always the same."""
    return "".join(f" {_WORDS[index % len(_WORDS)]}" for index in range(first, end))


def usage(request: GenerationRequest, written: int) -> Mapping[str, int]:
    return {
        "prompt_tokens": request.prompt_tokens,
        "completion_tokens": written,
        "total_tokens": request.prompt_tokens + written,
    }


def _prompt_tokens(parsed: _Body) -> int:
    match parsed:
        case _ChatBody():
            return sum(_count(message.role + message.text()) for message in parsed.messages)
        case _CompletionBody(prompt=str() as prompt):
            return _count(prompt)
        case _CompletionBody():
            return len(parsed.prompt)
        case _:
            raise TypeError(f"{type(parsed).__name__} has no prompt")


def _count(prompt: str) -> int:
    return max(1, -(-len(prompt) // CHARACTERS_PER_TOKEN))


Body = TypeVar("Body", bound=_Body)


def _validate(kind: type[Body], body: Any, model_name: str) -> Body:
    try:
        parsed = kind.model_validate(body)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in fault["loc"] if isinstance(part, int | str))
        raise RequestError(
            400, f"{field or 'body'}: {fault['msg']}, got {_shown(fault['input'])}", field or None
        ) from None
    if parsed.model is not None and parsed.model != model_name:
        raise RequestError(
            404, f"model {_shown(parsed.model)} is not served here: use {model_name!r}", "model"
        )
    return parsed


def _generation(
    parsed: _Body, prompt_tokens: int, limit: int, max_model_len: int, *, chat: bool
) -> GenerationRequest:
    if prompt_tokens + limit > max_model_len:
        raise RequestError(
            400,
            f"the prompt's {prompt_tokens} tokens and max_tokens {limit} exceed the context of "
            f"{max_model_len} tokens: shorten the prompt or lower max_tokens",
            "max_tokens" if prompt_tokens < max_model_len else "prompt",
        )
    if parsed.min_tokens > limit:
        raise RequestError(
            400, f"min_tokens {parsed.min_tokens} exceeds max_tokens {limit}", "min_tokens"
        )
    natural = limit if parsed.ignore_eos else max(NATURAL_OUTPUT_TOKENS, parsed.min_tokens)
    return GenerationRequest(
        chat=chat,
        prompt_tokens=prompt_tokens,
        output_tokens=min(limit, natural),
        reason="stop" if natural < limit else "length",
        stream=parsed.stream,
        include_usage=parsed.stream_options is not None and parsed.stream_options.include_usage,
    )


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
