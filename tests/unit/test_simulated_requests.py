"""Bodies of the OpenAI API: what is understood, and what is refused with which words."""

from __future__ import annotations

from typing import Any

import pytest

from slm_worker.engine.simulated.requests import (
    GenerationRequest,
    RequestError,
    parse_chat,
    parse_completion,
    prompt_tokens,
    text,
)


def completion(**body: Any) -> GenerationRequest:
    return parse_completion({"model": "opt", "prompt": "hello", **body}, "opt", 2048)


def chat(**body: Any) -> GenerationRequest:
    messages = [{"role": "user", "content": "hello"}]
    return parse_chat({"model": "opt", "messages": messages, **body}, "opt", 2048)


def test_token_ids_count_as_they_are_and_text_by_four_characters() -> None:
    assert completion(prompt=[5, 6, 7]).prompt_tokens == 3
    assert completion(prompt="x" * 9).prompt_tokens == 3


def test_a_prompt_and_messages_can_be_counted_without_an_answer() -> None:
    messages = [{"role": "user", "content": "x" * 36}]

    assert prompt_tokens({"prompt": "x" * 9}, "opt") == 3
    assert prompt_tokens({"messages": messages}, "opt") == 10
    with pytest.raises(RequestError, match="use one prompt"):
        prompt_tokens({"prompt": ""}, "opt")
    with pytest.raises(RequestError, match="prompt: Field required"):
        prompt_tokens({}, "opt")


def test_a_completion_ends_by_itself_unless_told_to_go_on() -> None:
    ended = completion(max_tokens=500)
    going_on = completion(max_tokens=500, ignore_eos=True)
    at_least = completion(max_tokens=500, min_tokens=400)

    assert (ended.output_tokens, ended.reason) == (292, "stop")
    assert (going_on.output_tokens, going_on.reason) == (500, "length")
    assert (at_least.output_tokens, at_least.reason) == (400, "stop")


def test_a_short_limit_ends_a_completion_by_length() -> None:
    short = completion(max_tokens=10)

    assert (short.output_tokens, short.reason) == (10, "length")


def test_without_a_limit_a_completion_has_16_tokens_and_a_chat_ends_by_itself() -> None:
    assert completion().output_tokens == 16
    assert chat().output_tokens == 292


def test_chat_takes_text_parts_and_the_newer_limit() -> None:
    parts = [{"type": "text", "text": "x" * 36}]
    request = chat(messages=[{"role": "user", "content": parts}], max_completion_tokens=3)

    assert (request.prompt_tokens, request.output_tokens) == (10, 3)


def test_unknown_fields_are_ignored() -> None:
    assert completion(temperature=0.7, stop=["x"]).output_tokens == 16


def test_stream_options_ask_for_usage() -> None:
    assert completion(stream=True, stream_options={"include_usage": True}).include_usage
    assert not completion(stream=True, stream_options=None).include_usage


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"prompt": ""}, "use one prompt", "prompt"),
        ({"prompt": []}, "use one prompt", "prompt"),
        ({"prompt": ["a", "b"]}, "use one prompt", "prompt"),
        ({"prompt": [1, -2]}, "use one prompt", "prompt"),
        ({"prompt": None}, "use one prompt", "prompt"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1", "max_tokens"),
        ({"max_tokens": "many"}, "got 'many'", "max_tokens"),
        ({"min_tokens": 17}, "min_tokens 17 exceeds max_tokens 16", "min_tokens"),
        ({"n": 2}, "n: Input should be 1, got 2", "n"),
        ({"max_tokens": 2048}, "exceed the context of 2048 tokens", "max_tokens"),
        ({"prompt": [1] * 3000}, "the prompt's 3000 tokens", "prompt"),
    ],
)
def test_a_bad_completion_is_refused(body: dict[str, Any], message: str, param: str) -> None:
    with pytest.raises(RequestError) as refusal:
        completion(**body)

    assert message in str(refusal.value)
    assert (refusal.value.status, refusal.value.param) == (400, param)


@pytest.mark.parametrize("body", [[], 3, None, "text"])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(RequestError, match="body: "):
        parse_completion(body, "opt", 2048)


@pytest.mark.parametrize("messages", [[], [{"content": "x"}], [{"role": "user", "content": 3}]])
def test_a_bad_chat_is_refused(messages: object) -> None:
    with pytest.raises(RequestError, match="messages"):
        chat(messages=messages)


def test_a_chat_that_fills_the_context_is_refused() -> None:
    with pytest.raises(RequestError, match="exceed the context"):
        chat(messages=[{"role": "user", "content": "x" * 9000}])


def test_another_model_is_not_found() -> None:
    with pytest.raises(RequestError, match="'gpt' is not served here: use 'opt'") as refusal:
        completion(model="gpt")

    assert refusal.value.status == 404


def test_a_refusal_does_not_repeat_a_huge_value() -> None:
    with pytest.raises(RequestError) as refusal:
        completion(prompt=[-1] * 10_000)

    assert len(str(refusal.value)) < 300


def test_text_comes_in_pieces_that_join() -> None:
    assert text(0, 5) + text(5, 30) == text(0, 30)
    assert len(text(0, 30).split()) == 30
