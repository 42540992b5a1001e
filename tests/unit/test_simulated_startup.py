"""The simulated engine's command line, and what the agent reads from its end."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from slm_worker.engine.base import ReplicaSpec
from slm_worker.engine.factory import open_engine
from slm_worker.engine.simulated import SimulatedEngine
from slm_worker.engine.simulated.errors import EXIT_CODES, EngineError, find_error
from slm_worker.engine.simulated.startup import parse_arguments, resolve_model
from slm_worker.gpu.simulated.client import SOCKET_VARIABLE
from slm_worker.model_files import PUBLISHED_CONFIGS
from slm_worker.wire import EngineConfig, GpuConfig, ModelRef, PackConfig

OPT = ModelRef(uri="hf://facebook/opt-1.3b", name="opt")
SPEC = ReplicaSpec(0, "127.0.0.1", 9000, 256, 8 * 2**30, 0.45)


def command_line(engine: SimulatedEngine, spec: ReplicaSpec = SPEC) -> list[str]:
    """Arguments after ``python -m module``."""
    return list(engine.command(spec).argv[3:])


def test_the_command_line_is_one_that_the_server_takes() -> None:
    engine = SimulatedEngine(OPT, ("--max-model-len", "1024", "--start-seconds", "0"))
    arguments = parse_arguments(command_line(engine))

    assert (arguments.host, arguments.port, arguments.max_num_seqs) == ("127.0.0.1", 9000, 256)
    assert arguments.kv_cache_memory_bytes == 8 * 2**30
    assert arguments.gpu_memory_utilization == 0.45
    assert (arguments.max_model_len, arguments.start_seconds) == ("1024", 0.0)


def test_settings_that_the_engine_chooses_are_left_out() -> None:
    engine = SimulatedEngine(OPT, ())
    arguments = parse_arguments(command_line(engine, ReplicaSpec(0, "h", 1, 8, None, None)))

    assert arguments.kv_cache_memory_bytes is None
    assert arguments.gpu_memory_utilization == 0.9


def test_sleep_mode_and_the_names_of_metrics_reach_the_server() -> None:
    engine = SimulatedEngine(OPT, ("--metrics-names", "older", "--enable-chunked-prefill"))
    arguments = parse_arguments(command_line(engine, replace(SPEC, sleep_mode=True)))

    assert arguments.enable_sleep_mode
    assert arguments.enable_chunked_prefill
    assert arguments.metrics_names == "older"
    plain = parse_arguments(command_line(SimulatedEngine(OPT, ())))
    assert not plain.enable_sleep_mode
    assert plain.metrics_names == "today"


def test_where_the_device_names_no_simulated_gpu_the_agents_environment_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = PackConfig(
        model=OPT, engine=EngineConfig(kind="Simulated"), gpu=GpuConfig(kind="NVIDIA")
    )
    monkeypatch.setenv(SOCKET_VARIABLE, "/run/gpu.sock")
    assert open_engine(config).command(SPEC).env == {SOCKET_VARIABLE: "/run/gpu.sock"}

    monkeypatch.delenv(SOCKET_VARIABLE)
    assert open_engine(config).command(SPEC).env == {}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--metrics-names", "newest"), "invalid choice: 'newest'"),
        (("--dtype", "float16"), "unrecognized arguments: --dtype float16"),
        (("--max-model",), "--max-model"),
        (("--start-seconds", "soon"), "invalid float value: 'soon'"),
        (("--start-seconds", "nan"), "--start-seconds: nan is out of range"),
        (("--max-num-seqs", "0"), "--max-num-seqs: 0 is out of range (1 to 4096)"),
        (("--port", "70000"), "--port: 70000 is out of range"),
        (("--gpu-memory-utilization", "1.5"), "--gpu-memory-utilization: 1.5 is out of range"),
        (("--kv-cache-memory-bytes", "0"), "--kv-cache-memory-bytes: 0 is out of range"),
    ],
)
def test_bad_arguments_are_refused(args: tuple[str, ...], message: str) -> None:
    with pytest.raises(EngineError) as refusal:
        parse_arguments([*command_line(SimulatedEngine(OPT, ())), *args])

    assert refusal.value.reason == "EngineArgumentInvalid"
    assert message in refusal.value.message


def resolve(uri: str, *args: str) -> tuple[int, int, int]:
    model = ModelRef.model_construct(uri=uri, name="m", revision=None)
    footprint = resolve_model(parse_arguments(command_line(SimulatedEngine(model, args)))).footprint
    return footprint.weights_bytes, footprint.kv_bytes_per_token, footprint.max_model_len


def test_opt_is_known_by_name() -> None:
    weights_bytes, kv_bytes_per_token, max_model_len = resolve(OPT.uri)

    assert weights_bytes == pytest.approx(2.63e9, rel=0.01)
    assert (kv_bytes_per_token, max_model_len) == (196_608, 2048)
    assert resolve(OPT.uri, "--max-model-len", "1K")[2] == 1024


def test_a_longrope_model_may_be_asked_for_all_that_it_was_lengthened_to(tmp_path: Path) -> None:
    config = PUBLISHED_CONFIGS["facebook/opt-1.3b"] | {
        "original_max_position_embeddings": 512,
        "rope_scaling": {"type": "longrope"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    uri = f"file://{tmp_path}"

    assert resolve(uri)[2] == 512
    assert resolve(uri, "--max-model-len", "2048")[2] == 2048
    with pytest.raises(EngineError, match="exceeds the 2048 tokens"):
        resolve(uri, "--max-model-len", "2049")


@pytest.mark.parametrize(
    ("uri", "args", "reason", "message"),
    [
        ("hf://nobody/nothing", (), "ModelNotFound", "knows by name only hf://facebook/opt-1.3b"),
        ("s3://bucket", (), "ModelNotFound", "use hf://... or file:///path"),
        ("file:///no/such/model", (), "ModelNotFound", "/no/such/model does not exist"),
        (OPT.uri, ("--max-model-len", "x"), "EngineArgumentInvalid", "'x' is no token count"),
        (OPT.uri, ("--max-model-len", "4096"), "EngineArgumentInvalid", "exceeds the 2048 tokens"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused(
    uri: str, args: tuple[str, ...], reason: str, message: str
) -> None:
    with pytest.raises(EngineError) as refusal:
        resolve(uri, *args)

    assert refusal.value.reason == reason
    assert message in refusal.value.message


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "opt"}'])
def test_a_malformed_config_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)

    with pytest.raises(EngineError) as refusal:
        resolve(f"file://{tmp_path}")

    assert refusal.value.reason == "ModelConfigInvalid"
    assert "config.json" in refusal.value.message


def test_an_error_line_is_found_in_a_log() -> None:
    error = EngineError("OutOfMemory", "too much:\n  plan less")
    found = find_error(f"INFO loading\n{error.line}\nINFO bye\n")

    assert found is not None
    assert (found.reason, found.message) == ("OutOfMemory", "too much: plan less")
    assert find_error("INFO error: not one") is None


def test_exit_codes_are_distinct() -> None:
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


@pytest.mark.parametrize(
    ("returncode", "log", "reason", "word"),
    [
        (12, "error: OutOfMemory: plan fewer replicas\n", "OutOfMemory", "plan fewer replicas"),
        (-signal.SIGKILL, "", "EngineKilled", "memory limit"),
        (0, "INFO done", "EngineExited", "SIGTERM"),
        (1, "Traceback", "EngineExited", "exited with 1"),
    ],
)
def test_the_agent_reads_why_an_engine_ended(
    returncode: int, log: str, reason: str, word: str
) -> None:
    explained = SimulatedEngine(OPT, ()).explain_exit(returncode, log)

    assert explained[0] == reason
    assert word in explained[1]
