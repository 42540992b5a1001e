"""vLLM's command line, the reading of its death, and the arguments that the agent owns."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from slm_worker.engine.base import ReplicaSpec
from slm_worker.engine.factory import (
    EngineUnusableError,
    open_engine,
    refuse_owned_arguments,
)
from slm_worker.engine.vllm import VllmEngine
from slm_worker.owned_arguments import OWNED_ENGINE_ARGUMENTS
from slm_worker.wire import EngineConfig, GpuConfig, ModelRef, PackConfig

HUB = ModelRef(uri="hf://facebook/opt-1.3b", name="opt", revision="abc")
LOCAL = ModelRef(uri="file:///models/opt", name="opt")
ON_GPU = ReplicaSpec(1, "127.0.0.1", 9001, 256, 2**30, 0.45)
ON_CPU = ReplicaSpec(1, "127.0.0.1", 9001, 8, 2**28, None)


def engine(model: ModelRef = HUB, *args: str, on_cpu: bool = False) -> VllmEngine:
    return VllmEngine(model, args, executable="/bin/vllm", on_cpu=on_cpu)


def value_of(argv: tuple[str, ...], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_a_replica_on_a_gpu() -> None:
    command = engine(HUB, "--max-model-len", "512").command(ON_GPU)
    assert command.argv == (
        *("/bin/vllm", "serve", "facebook/opt-1.3b", "--max-model-len", "512"),
        *("--host", "127.0.0.1", "--port", "9001", "--served-model-name", "opt"),
        *("--max-num-seqs", "256", "--shutdown-timeout", "60"),
        *("--kv-cache-memory-bytes", str(2**30), "--gpu-memory-utilization", "0.4500"),
        *("--revision", "abc", "--disable-uvicorn-access-log"),
    )
    assert command.env == {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "86400"}
    assert command.default_env == {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def test_a_replica_on_a_cpu_is_one_eager_process_without_gpu_memory() -> None:
    command = engine(LOCAL, on_cpu=True).command(ON_CPU)
    assert command.argv[2] == "/models/opt"
    assert value_of(command.argv, "--distributed-executor-backend") == "uni"
    assert "--enforce-eager" in command.argv
    assert "--gpu-memory-utilization" not in command.argv
    assert command.env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_threads_and_access_to_a_hub_are_the_users_to_set() -> None:
    command = engine(LOCAL, on_cpu=True).command(ON_CPU)
    for name, default in (("OMP_NUM_THREADS", "1"), ("HF_HUB_OFFLINE", "1")):
        assert command.default_env[name] == default
        assert name not in command.env


def test_a_replica_that_shall_sleep_gets_the_paths_for_it() -> None:
    command = engine().command(replace(ON_GPU, sleep_mode=True))
    assert "--enable-sleep-mode" in command.argv
    assert command.env["VLLM_SERVER_DEV_MODE"] == "1"
    assert "--enable-sleep-mode" not in engine().command(ON_GPU).argv


def test_on_a_cpu_vllm_cannot_sleep() -> None:
    assert engine().can_sleep
    assert not engine(LOCAL, on_cpu=True).can_sleep


def test_the_user_may_compile_on_a_cpu() -> None:
    argv = engine(LOCAL, "--no_enforce_eager", on_cpu=True).command(ON_CPU).argv
    assert "--enforce-eager" not in argv


@pytest.mark.parametrize("argument", OWNED_ENGINE_ARGUMENTS)
@pytest.mark.parametrize("form", ["{}", "{}=1"])
def test_owned_arguments_are_refused(argument: str, form: str) -> None:
    with pytest.raises(EngineUnusableError, match=f"remove {argument}: ."):
        refuse_owned_arguments(["--dtype", "float16", form.format(argument)])


def test_owned_arguments_are_refused_with_underscores() -> None:
    with pytest.raises(EngineUnusableError, match="--max_num_seqs: the operator plans it"):
        refuse_owned_arguments(["--max_num_seqs=8"])


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        pytest.param("--tensor=2", "remove --tensor: a pack is one GPU", id="long, shortened"),
        pytest.param("-t", "remove -t: a pack is one GPU", id="short, shortened"),
        pytest.param("-as=4", "remove -as: a pack is one GPU", id="short, shortened, with a value"),
        pytest.param("-n2", "remove -n2: a pack is one GPU", id="short, its value glued on"),
        pytest.param(
            "--api-key.a=b", "remove --api-key.a: protect the service", id="long, with a key"
        ),
        pytest.param("-dp.a", "remove -dp.a: a pack is one GPU", id="short, with a key"),
        pytest.param("--", "remove --: ", id="the end of all options"),
    ],
)
def test_owned_arguments_are_refused_in_other_forms_that_vllm_takes(
    argument: str, told: str
) -> None:
    with pytest.raises(EngineUnusableError, match=told):
        refuse_owned_arguments(["--dtype", "float16", argument])


def test_values_and_longer_names_are_no_owned_arguments() -> None:
    refuse_owned_arguments(["--model-impl", "auto", "--chat-template", "port", "--max-model-len=9"])
    refuse_owned_arguments(["-q", "awq", "-O3", "-cc.mode=3", "-sc.x", "-sc", "-1", "-", "=", ""])


def test_an_option_of_its_own_is_no_beginning_of_an_owned_one() -> None:
    refuse_owned_arguments(["-dc", "{}", "-dc.x=1"])


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    config = PackConfig(model=HUB, engine=EngineConfig(kind="vLLM"), gpu=GpuConfig(kind="NVIDIA"))
    with pytest.raises(EngineUnusableError, match="vllm is on PATH") as caught:
        open_engine(config)
    assert caught.value.reason == "EngineNotFound"


@pytest.mark.parametrize(
    ("log_tail", "reason", "told"),
    [
        (
            "usage: vllm serve [model_tag] [options]\nvllm: error: unrecognized arguments: --oops",
            "EngineArgumentInvalid",
            "--oops",
        ),
        ("INFO fine\nRuntimeError: a surprise\nINFO bye", "EngineExited", "a surprise"),
        ("INFO one\nINFO two", "EngineExited", "INFO two"),
        ("", "EngineExited", "no output"),
    ],
)
def test_a_death_is_explained_from_the_log(log_tail: str, reason: str, told: str) -> None:
    found, message = engine().explain_exit(1, log_tail)
    assert found == reason
    assert told in message


def test_a_kill_by_the_system_is_explained_by_memory() -> None:
    reason, message = engine().explain_exit(-signal.SIGKILL, "INFO fine")
    assert reason == "EngineKilled"
    assert "memory" in message


def test_what_an_engine_wrote_of_requests_does_not_explain_its_crash() -> None:
    about_a_request = "vllm.exceptions.VLLMValidationError: 1 validation error for ChatRequest"
    crash = "!!!!!!! Segfault encountered !!!!!!!"
    tail = f"{about_a_request}\npydantic_core.ValidationError: 1\n{crash}"
    reason, message = engine().explain_exit(-signal.SIGSEGV, tail, was_ready=True)
    assert reason == "EngineExited"
    assert "signal 11" in message
