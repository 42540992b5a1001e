"""Real vLLM on the CPU with the real model: it serves, it measures itself, it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import free_port
from slm_dev.vllm_cpu.install import SERVE_ARGUMENTS, ensure_environment
from slm_dev.vllm_cpu.model import ensure_model

START_SECONDS = 300
STOP_SECONDS = 20


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
        return str(answer.read().decode())


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"vLLM ended with {server.returncode}:\n{log.read_text()[-3000:]}")
        try:
            get(f"{url}/health")
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"vLLM was not ready in {START_SECONDS} s:\n{log.read_text()[-3000:]}")


def end(server: subprocess.Popen[bytes]) -> None:
    """End the server as vLLM needs it: ask, ask again, then kill what is left of its group."""
    for _ in range(2):
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
            break
        except subprocess.TimeoutExpired:
            continue
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait(STOP_SECONDS)


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    environment = ensure_environment(print)
    model = ensure_model(print)
    port = free_port()
    log = tmp_path_factory.mktemp("vllm") / "vllm.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(str(environment.vllm), "serve", str(model), "--served-model-name", "smollm2"),
                *("--host", "127.0.0.1", "--port", str(port), *SERVE_ARGUMENTS),
            ],
            env={**os.environ, **environment.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, server, log)
        yield url
    finally:
        end(server)


def complete(url: str, prompt: str, max_tokens: int) -> str:
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{url}/v1/completions",
        json.dumps(
            {"model": "smollm2", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        ).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
        text: str = json.load(answer)["choices"][0]["text"]
        return text


def test_serves_the_model_and_measures_itself(server_url: str) -> None:
    assert "Paris" in complete(server_url, "The capital of France is", max_tokens=8)
    metrics = get(f"{server_url}/metrics")
    labels = '{engine="0",model_name="smollm2"}'
    assert f"vllm:generation_tokens_total{labels} 8.0" in metrics
    assert f"vllm:inter_token_latency_seconds_count{labels} 7.0" in metrics
    assert f"vllm:num_requests_running{labels} " in metrics
