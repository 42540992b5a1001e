"""One simulated engine process: its API, its metrics, and how it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ports import free_port
from simulated_pack import (
    FAST_START,
    RunningEngine,
    daemon_of,
    launched,
    serving,
    simulated_device,
    spec,
    until,
)
from slm_worker.engine.simulated.errors import EXIT_CODES, EXIT_TOLD_TWICE
from slm_worker.gpu.simulated import SimulatedDevice
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE
from slm_worker.wire import ModelRef

LONG_TOKENS = 2000
"""Takes more than seven seconds alone."""
SEEN_TOKENS = 1300
"""Takes five seconds alone: longer than a busy machine keeps a test from looking."""
STEP_SECONDS = 2 / 530.0
"""Of a batch of two."""


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[SimulatedDevice]:
    async with simulated_device(tmp_path) as device:
        yield device


@pytest.fixture
async def engine(device: SimulatedDevice, tmp_path: Path) -> AsyncIterator[RunningEngine]:
    async with serving(device, tmp_path, spec(free_port(), max_num_seqs=2)) as engine:
        yield engine


async def events(response: aiohttp.ClientResponse) -> list[Any]:
    """The JSON messages of a stream, whose end must be announced."""
    lines = [line.decode().strip() async for line in response.content]
    payloads = [line.removeprefix("data: ") for line in lines if line]
    assert payloads[-1] == "[DONE]"
    return [json.loads(payload) for payload in payloads[:-1]]


def background(engine: RunningEngine, **body: Any) -> asyncio.Task[tuple[int, Any]]:
    return asyncio.create_task(engine.post(**body))


async def test_a_completion_has_the_shape_of_openai(engine: RunningEngine) -> None:
    status, answer = await engine.post(max_tokens=5)

    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["model"] == "opt"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert len(answer["choices"][0]["text"].split()) == 5
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


async def test_a_chat_completion_has_the_shape_of_openai(engine: RunningEngine) -> None:
    messages = [{"role": "user", "content": "Hello there"}]
    status, answer = await engine.post("/v1/chat/completions", messages=messages, max_tokens=4)

    assert status == 200
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert len(answer["choices"][0]["message"]["content"].split()) == 4


@pytest.mark.parametrize("chat", [False, True])
async def test_a_stream_joins_to_the_whole_answer(engine: RunningEngine, chat: bool) -> None:
    path = "/v1/chat/completions" if chat else "/v1/completions"
    prompt = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"prompt": "hi"}
    body = {**prompt, "max_tokens": 100, "ignore_eos": True}
    _, whole = await engine.post(path, **body)
    options = {"stream": True, "stream_options": {"include_usage": True}}

    async with engine.http.post(engine.url + path, json={**body, **options}) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        *chunks, last = await events(response)

    choices = [chunk["choices"][0] for chunk in chunks]
    if chat:
        assert choices[0]["delta"]["role"] == "assistant"
        joined = "".join(choice["delta"]["content"] for choice in choices)
        assert joined == whole["choices"][0]["message"]["content"]
    else:
        assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert len(choices) > 1
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 100


async def test_the_engine_says_that_it_is_simulated(engine: RunningEngine) -> None:
    (model,) = json.loads(await engine.get("/v1/models"))["data"]

    assert (model["id"], model["owned_by"], model["max_model_len"]) == ("opt", "simulated", 2048)
    assert "simulated" in json.loads(await engine.get("/version"))["version"]
    assert "SIMULATED engine" in engine.log.read_text()


async def test_a_prompt_is_counted_as_a_completion_counts_it(engine: RunningEngine) -> None:
    status, answer = await engine.post("/tokenize", prompt="x" * 9)

    assert (status, answer["count"], len(answer["tokens"])) == (200, 3, 3)
    assert answer["max_model_len"] == 2048


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/completions", {"model": "gpt"}, 404, "'gpt' is not served here: use 'opt'"),
        ("/v1/completions", {"max_tokens": 5000}, 400, "exceed the context of 2048 tokens"),
        ("/v1/completions", {"prompt": []}, 400, "use one prompt"),
        ("/v1/completions", {"n": 2}, 400, "n: Input should be 1"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/completions", {"prompt": "x" * 2**20}, 413, "shorten the prompt"),
        ("/v1/embeddings", {}, 404, "POST /v1/embeddings: Not Found"),
        ("/v1/models", {}, 405, "POST /v1/models: Method Not Allowed"),
    ],
)
async def test_a_bad_request_is_refused_in_the_shape_of_openai(
    engine: RunningEngine, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    answered, refusal = await engine.post(path, **body)

    assert answered == status
    assert message in refusal["error"]["message"]
    assert refusal["error"]["code"] == status
    assert {"type", "param"} < refusal["error"].keys()


async def test_a_body_that_is_no_json_is_refused(engine: RunningEngine) -> None:
    async with engine.http.post(f"{engine.url}/v1/completions", data=b"{") as response:
        assert response.status == 400
        assert "the body is no JSON" in (await response.json())["error"]["message"]


async def test_tokens_are_counted_while_they_are_written(engine: RunningEngine) -> None:
    request = background(engine, max_tokens=LONG_TOKENS)

    async def some_written() -> bool:
        return (await engine.metrics())["vllm:generation_tokens_total"] > 10

    await until(some_written)
    first = (await engine.metrics())["vllm:generation_tokens_total"]

    async def more_written() -> bool:
        return (await engine.metrics())["vllm:generation_tokens_total"] > first

    await until(more_written)
    assert not request.done()
    request.cancel()


async def test_metrics_follow_requests_that_run_wait_and_end(engine: RunningEngine) -> None:
    began_seconds = time.monotonic()
    requests = [background(engine, max_tokens=SEEN_TOKENS) for _ in range(3)]
    await until(partial(engine.metric_is, "vllm:num_requests_waiting", 1))
    metrics = await engine.metrics()
    assert metrics["vllm:num_requests_running"] == 2
    assert metrics["vllm:kv_cache_usage_perc"] > 0
    await asyncio.gather(*requests)
    took_seconds = time.monotonic() - began_seconds

    metrics = await engine.metrics()
    assert metrics["vllm:num_requests_running"] == metrics["vllm:num_requests_waiting"] == 0
    assert metrics["vllm:generation_tokens_total"] == 3 * SEEN_TOKENS
    assert metrics["vllm:prompt_tokens_total"] == 9
    assert metrics["vllm:request_success_total"] == 3
    assert metrics["vllm:time_to_first_token_seconds_count"] == 3
    assert metrics["vllm:inter_token_latency_seconds_count"] == 3 * (SEEN_TOKENS - 1)
    assert metrics["vllm:e2e_request_latency_seconds_count"] == 3
    itl, ttft, e2e = (
        metrics[f"vllm:{latency}_seconds_sum"]
        for latency in ("inter_token_latency", "time_to_first_token", "e2e_request_latency")
    )
    # No step is shorter than the GPU's; a busy machine makes some longer, by any factor.
    assert itl / (3 * (SEEN_TOKENS - 1)) >= 0.75 * STEP_SECONDS
    assert itl == pytest.approx(e2e - ttft, rel=0.01)
    assert itl <= 2 * took_seconds, "two at a time; the wait of the third is none of it"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_frees_its_slot(
    engine: RunningEngine, stream: bool
) -> None:
    body = {"prompt": "x", "max_tokens": LONG_TOKENS, "ignore_eos": True, "stream": stream}
    async with aiohttp.ClientSession() as leaving:
        sent = asyncio.create_task(
            leaving.post(f"{engine.url}/v1/completions", json=body, raise_for_status=True)
        )
        await until(partial(engine.metric_is, "vllm:num_requests_running", 1))
        if stream:
            await (await sent).content.readline()
        else:
            sent.cancel()
    await until(partial(engine.metric_is, "vllm:num_requests_running", 0))

    assert (await engine.post(max_tokens=2))[0] == 200
    text = await engine.get("/metrics")
    assert 'finished_reason="abort"} 1.0' in text


async def test_sigterm_finishes_what_runs_and_refuses_what_is_new(engine: RunningEngine) -> None:
    requests = [background(engine, max_tokens=SEEN_TOKENS) for _ in range(3)]
    await until(partial(engine.metric_is, "vllm:num_requests_waiting", 1))
    engine.terminate()

    async def refuses() -> bool:
        return (await engine.post(max_tokens=1))[0] == 500

    await until(refuses)
    assert await engine.healthy()
    answers = await asyncio.gather(*requests)

    assert [status for status, _ in answers] == [200] * 3
    written = [answer["usage"]["completion_tokens"] for _, answer in answers]
    assert written == [SEEN_TOKENS] * 3
    assert await engine.exit_code() == 0


async def test_sigterm_ends_an_idle_engine(engine: RunningEngine) -> None:
    engine.terminate()

    assert await engine.exit_code() == 0


async def test_a_second_sigterm_ends_at_once(engine: RunningEngine) -> None:
    request = background(engine, max_tokens=LONG_TOKENS)
    await until(partial(engine.metric_is, "vllm:num_requests_running", 1))
    engine.terminate()
    await until(lambda: "finishing the requests" in engine.log.read_text())
    engine.terminate()

    assert await engine.exit_code() == EXIT_TOLD_TWICE
    with pytest.raises(aiohttp.ClientError):
        await request


async def test_a_lost_gpu_ends_the_engine(device: SimulatedDevice, engine: RunningEngine) -> None:
    request = background(engine, max_tokens=LONG_TOKENS)
    await until(partial(engine.metric_is, "vllm:num_requests_running", 1))
    daemon_of(device).kill()

    assert await engine.exit_code() == EXIT_CODES["DeviceLost"]
    reason, message = engine.explanation()
    assert reason == "DeviceLost"
    assert "restart the pack" in message
    with pytest.raises(aiohttp.ClientError):
        await request


async def fails_to_start(engine: RunningEngine, reason: str) -> str:
    """The message with which it failed."""
    assert await engine.exit_code() == EXIT_CODES[reason]
    explained, message = engine.explanation()
    assert explained == reason
    assert "Traceback" not in engine.log.read_text()
    return message


async def test_memory_that_others_hold_is_out_of_memory(
    device: SimulatedDevice, engine: RunningEngine, tmp_path: Path
) -> None:
    async with launched(device.engine_env(), tmp_path) as second:
        message = await fails_to_start(second, "OutOfMemory")

    assert "plan fewer replicas" in message


async def test_a_kv_cache_too_small_for_one_sequence_is_out_of_memory(
    device: SimulatedDevice, tmp_path: Path
) -> None:
    async with launched(device.engine_env(), tmp_path, spec(free_port(), replicas=16)) as engine:
        message = await fails_to_start(engine, "OutOfMemory")

    assert "one sequence of 2048 tokens needs" in message


async def test_a_taken_port_is_named(device: SimulatedDevice, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with launched(device.engine_env(), tmp_path, spec(port)) as engine:
            assert f"127.0.0.1:{port}" in await fails_to_start(engine, "PortTaken")


@pytest.mark.parametrize(
    ("uri", "args", "reason"),
    [
        ("hf://nobody/nothing", (), "ModelNotFound"),
        ("file:///no/such/model", (), "ModelNotFound"),
        ("hf://facebook/opt-1.3b", ("--no-such-argument",), "EngineArgumentInvalid"),
    ],
)
async def test_what_cannot_be_served_is_refused_at_the_start(
    device: SimulatedDevice, tmp_path: Path, uri: str, args: tuple[str, ...], reason: str
) -> None:
    model = ModelRef(uri=uri, name="opt")
    async with launched(device.engine_env(), tmp_path, model=model, args=args) as engine:
        await fails_to_start(engine, reason)


async def test_a_model_with_a_malformed_config_is_refused(
    device: SimulatedDevice, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{")
    model = ModelRef(uri=f"file://{tmp_path}", name="opt")
    async with launched(device.engine_env(), tmp_path, model=model) as engine:
        message = await fails_to_start(engine, "ModelConfigInvalid")

    assert "config.json is no JSON" in message


@pytest.mark.parametrize("environment", [{}, {SOCKET_VARIABLE: "/no/such/socket"}])
async def test_an_engine_without_a_gpu_says_so(
    tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SOCKET_VARIABLE, raising=False)
    async with launched(environment, tmp_path) as engine:
        await fails_to_start(engine, "DeviceUnavailable")


async def test_a_local_model_is_served(device: SimulatedDevice, tmp_path: Path) -> None:
    config = {
        "model_type": "opt",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 2,
        "vocab_size": 1000,
        "max_position_embeddings": 128,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = ModelRef(uri=f"file://{tmp_path}", name="opt")
    async with launched(device.engine_env(), tmp_path, model=model, args=FAST_START) as engine:
        await until(engine.healthy)

        assert (await engine.post(max_tokens=125))[0] == 200
        assert (await engine.post(max_tokens=126))[0] == 400
