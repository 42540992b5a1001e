"""The causes of vLLM's end, in lines as its releases, its libraries and the driver write them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from slm_worker.engine.causes import CAUSES, MAX_QUOTED_ERROR_CHARACTERS, find_cause, last_words

LOGS = Path(__file__).parents[1] / "fixtures" / "vllm_logs"
"""The last lines of vLLM 0.32 for the CPU, made to fail in one way each; paths are shortened."""


class Recorded(NamedTuple):
    reason: str
    told: str


RECORDED = {
    "bad-argument": Recorded("EngineArgumentInvalid", "--no-such-argument 3"),
    "bad-choice": Recorded("EngineArgumentInvalid", "'float99'"),
    "len-too-long": Recorded("EngineArgumentInvalid", "max_model_len (999999)"),
    "missing-model": Recorded("ModelNotFound", "/models/nothing-here"),
    "bad-config": Recorded("ModelConfigInvalid", "`foolm`"),
    "cpu-memory-short": Recorded("OutOfMemory", "requested memory for kv (64.0 GiB)"),
    "too-few-batched-tokens": Recorded("EngineArgumentInvalid", "max_num_seqs (256)"),
    "hub-offline": Recorded("ModelUnreachable", "outgoing traffic has been disabled"),
    "hub-unreachable": Recorded("ModelUnreachable", "couldn't connect"),
    "kv-too-small": Recorded("OutOfMemory", "No available memory for the cache blocks"),
    "kv-short": Recorded("KVCacheTooSmall", "estimated maximum model length is 768"),
    "package-missing-h200": Recorded("PackageMissing", "No module named 'flashinfer'"),
    "port-taken": Recorded("PortTaken", "Address already in use"),
    "sleep-mode": Recorded("SleepUnsupported", "Sleep mode is not supported"),
}


@pytest.mark.parametrize("name", RECORDED)
def test_the_cause_is_found_in_what_vllm_really_wrote(name: str) -> None:
    found = find_cause((LOGS / f"{name}.log").read_text())
    assert found is not None
    reason, message = found
    assert reason == RECORDED[name].reason
    assert RECORDED[name].told in message


def test_every_recorded_log_is_looked_at() -> None:
    assert {file.stem for file in LOGS.glob("*.log")} == set(RECORDED)


class Case(NamedTuple):
    release: str
    reason: str
    told: str
    log: str


AFTERMATH = """
(APIServer pid=1)     raise RuntimeError("Engine core initialization failed. "
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
[rank0]:[W411 09:00:00.1 ProcessGroupNCCL.cpp:1496] Warning: WARNING: destroy_process_group() was not called before program exit
"""  # noqa: E501 - a log

CASES = {
    "memory: weights do not fit": Case(
        "0.5",
        "OutOfMemory",
        "Tried to allocate 224.00 MiB",
        "[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 "
        "has a total capacity of 79.10 GiB of which 105.88 MiB is free. Process 2034 has 71.2 GiB "
        "memory in use.",
    ),
    "memory: while graphs are captured": Case(
        "0.11",
        "OutOfMemory",
        "CUDA error: out of memory",
        "(EngineCore_DP0 pid=268) ERROR 10-02 11:20:07 [core.py:708] RuntimeError: CUDA error: out "
        "of memory\n(EngineCore_DP0 pid=268) ERROR 10-02 11:20:07 [core.py:708] CUDA kernel errors "
        "might be asynchronously reported at some other API call, so the stacktrace below might "
        "be incorrect.",
    ),
    "memory: nothing left for the cache": Case(
        "0.6",
        "OutOfMemory",
        "No available memory for the cache blocks",
        "[rank0]: ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine.",
    ),
    "memory: another process has it": Case(
        "0.23",
        "OutOfMemory",
        "4.1/79.1 GiB",
        "(EngineCore pid=91) ERROR 07-30 08:00:12 [core.py:1100] ValueError: Free memory on device "
        "cuda:0 (4.1/79.1 GiB) on startup is less than desired GPU memory utilization (0.45, "
        "35.6 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
    ),
    "memory: a kernel of Triton's": Case(
        "0.16",
        "OutOfMemory",
        "Triton Error",
        "(EngineCore_DP0 pid=268) RuntimeError: Triton Error [CUDA]: out of memory",
    ),
    "memory: the library of matrix products": Case(
        "0.14",
        "OutOfMemory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ),
    "memory: the driver": Case(
        "0.19",
        "OutOfMemory",
        "CUDA driver error",
        "RuntimeError: CUDA driver error: out of memory",
    ),
    "memory: the library of collectives": Case(
        "0.19",
        "OutOfMemory",
        "Cuda failure 2",
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled "
        "cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\n"
        "Last error:\nCuda failure 2 'out of memory'",
    ),
    "memory: a CPU's, at the start": Case(
        "0.32",
        "OutOfMemory",
        "(3.21/23.5 GiB)",
        "ValueError: Available memory on node 0 (3.21/23.5 GiB) on startup is less than desired "
        "CPU memory utilization (0.92, 21.6 GiB).",
    ),
    "memory: another process gave some back meanwhile": Case(
        "0.8",
        "MemoryNotSteady",
        "Initial free memory",
        "ERROR 04-29 01:34:48 [core.py:396] AssertionError: Error in memory profiling. Initial "
        "free memory 41.2 GiB, current free memory 52.0 GiB. This happens when the GPU memory was "
        "not properly cleaned up before initializing the vLLM instance.",
    ),
    "the cache is too small for one sequence, older": Case(
        "0.5",
        "KVCacheTooSmall",
        "(58496)",
        "ERROR 02-07 11:28:26 engine.py:389] ValueError: The model's max seq len (131072) is "
        "larger than the maximum number of tokens that can be stored in KV cache (58496). Try "
        "increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the "
        "engine.",
    ),
    "the cache is too small for one sequence, newer": Case(
        "0.23",
        "KVCacheTooSmall",
        "127776",
        "(EngineCore pid=42) ERROR 06-09 14:01:52 [core.py:1136] ValueError: To serve at least one "
        "request with the models's max seq len (131072), (4.11 GiB KV cache is needed, which is "
        "larger than the available KV cache memory (4.0 GiB). Based on the available memory, the "
        "estimated maximum model length is 127776.",
    ),
    "gated, without a token": Case(
        "0.6",
        "ModelGated",
        "credentialsSecretRef",
        "huggingface_hub.errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-66)\n\n"
        "Cannot access gated repo for url https://hub.example/meta-llama/x/resolve/main/config.json"
        "\nOSError: You are trying to access a gated repo.\nMake sure to have access to it at "
        "https://hub.example/meta-llama/x.",
    ),
    "gated, the account may not": Case(
        "0.11",
        "ModelGated",
        "is restricted",
        "(APIServer pid=1) OSError: There was a specific connection error when trying to load "
        "meta-llama/x:\n(APIServer pid=1) 403 Client Error. (Request ID: Root=1-66)\n"
        "(APIServer pid=1) Access to model meta-llama/x is restricted and you are not in the "
        "authorized list.",
    ),
    "a token that is wrong": Case(
        "0.10",
        "ModelGated",
        "Unauthorized",
        "OSError: x/y is not a local folder and is not a valid model identifier listed on the hub\n"
        "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: https://hub.example",
    ),
    "no such model, as the hub tells it to strangers": Case(
        "0.9",
        "ModelGated",
        "check model.uri",
        "RepositoryNotFoundError: 401 Client Error.\n\nRepository Not Found for url: "
        "https://hub.example/api/models/x/y.\nIf you are trying to access a private or gated repo, "
        "make sure you are authenticated.",
    ),
    "no such model": Case(
        "0.9",
        "ModelNotFound",
        "Repository Not Found",
        "huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error.\n\nRepository Not Found "
        "for url: https://hub.example/api/models/x/y.",
    ),
    "no such revision": Case(
        "0.9",
        "ModelNotFound",
        "RevisionNotFoundError",
        "huggingface_hub.errors.RevisionNotFoundError: 404 Client Error. Revision Not Found",
    ),
    "a name that no hub would give": Case(
        "0.32",
        "ModelNotFound",
        "org/my--model",
        "huggingface_hub.errors.HFValidationError: Cannot have -- or .. in repo_id: "
        "'org/my--model'.",
    ),
    "a directory without weights": Case(
        "0.14",
        "ModelNotFound",
        "Cannot find any model weights",
        "(EngineCore_DP0 pid=9) RuntimeError: Cannot find any model weights with `/models/opt`",
    ),
    "a truncated weights file": Case(
        "0.14",
        "ModelConfigInvalid",
        "MetadataIncompleteBuffer",
        "(EngineCore_DP0 pid=9) safetensors_rust.SafetensorError: Error while deserializing header:"
        " MetadataIncompleteBuffer",
    ),
    "the driver is too old for a kernel": Case(
        "0.23",
        "DriverTooOld",
        "PTX",
        "(EngineCore pid=91) torch.AcceleratorError: CUDA error: the provided PTX was compiled "
        "with an unsupported toolchain.",
    ),
    "the driver is too old for torch": Case(
        "0.6",
        "DriverTooOld",
        "found version 11040",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040). Please "
        "update your GPU driver by downloading and installing a new version",
    ),
    "the driver and a compat library do not fit": Case(
        "0.15",
        "DriverTooOld",
        "Error 803",
        "(EngineCore_DP0 pid=406) ERROR 01-30 13:26:29 [core.py:946] RuntimeError: Unexpected "
        "error from cudaGetDeviceCount(). Did you run some cuda functions before calling "
        "NumCudaDevices() that might have already set an error? Error 803: system has unsupported "
        "display driver / cuda driver combination",
    ),
    "forward compatibility on a GPU without it": Case(
        "0.8",
        "DriverTooOld",
        "Error 804",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 804: forward "
        "compatibility was attempted on non supported HW",
    ),
    "no GPU in the Pod": Case(
        "0.10",
        "DeviceUnavailable",
        "Failed to infer device type",
        "RuntimeError: Failed to infer device type, please set the environment variable "
        "`VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.",
    ),
    "the GPU is not yet up": Case(
        "0.16",
        "DeviceUnavailable",
        "Error 802",
        "ERROR 03-02 19:49:00 [multiproc_executor.py:783] RuntimeError: Unexpected error from "
        "cudaGetDeviceCount(). Error 802: system not yet initialized",
    ),
    "the disk is full": Case(
        "0.7",
        "DiskFull",
        "No space left",
        "OSError: [Errno 28] No space left on device: '/tmp/.cache/hub/tmp1'\n"
        "OSError: Can't load the configuration of 'x/y'.",
    ),
    "the compiler's disk is full": Case(
        "0.19",
        "DiskFull",
        "os error 28",
        "RuntimeError: Data processing error: CAS service error : IO Error: No space left on "
        "device (os error 28)",
    ),
    "a kernel's assertion": Case(
        "0.8",
        "DeviceAssert",
        "device-side assert triggered",
        "../aten/src/ATen/native/cuda/Indexing.cu:1422: vectorized_gather_kernel: block: [3,0,0], "
        'thread: [32,0,0] Assertion `ind >=0 && ind < ind_dim_size && "vectorized gather kernel '
        'index out of bounds"` failed.\nERROR 05-08 08:44:46 [core.py:398] RuntimeError: CUDA '
        "error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA` to enable "
        "device-side assertions.",
    ),
    "an address that is not the kernel's": Case(
        "0.13",
        "DeviceFault",
        "illegal memory access",
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
    ),
    "an address between two": Case(
        "0.19",
        "DeviceFault",
        "misaligned",
        "torch.AcceleratorError: CUDA error: misaligned address",
    ),
    "no instruction": Case(
        "0.19",
        "DeviceFault",
        "illegal instruction",
        "torch.AcceleratorError: CUDA error: an illegal instruction was encountered",
    ),
    "another client's fault cut a call": Case(
        "0.19",
        "MpsFault",
        "remote procedural call",
        "torch.AcceleratorError: CUDA error: the remote procedural call between the MPS server and "
        "the MPS client failed",
    ),
    "another client's fault ended this one": Case(
        "0.12",
        "MpsFault",
        "terminated",
        "torch.AcceleratorError: CUDA error: MPS client has been terminated by the MPS server",
    ),
    "the MPS server went away": Case(
        "0.9",
        "MpsFault",
        "cudaErrorMpsRpcFailure",
        "RuntimeError: CUDA error: MPS RPC failure\nSearch for `cudaErrorMpsRpcFailure' for more "
        "information.",
    ),
    "no MPS daemon at the start": Case(
        "0.8",
        "MpsNotReady",
        "Error 805",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 805: MPS client failed to "
        "connect to the MPS control daemon or the MPS server",
    ),
    "MPS takes nobody after a fault": Case(
        "0.14",
        "MpsNotReady",
        "Error 807",
        "(EngineCore_DP0 pid=88) RuntimeError: Unexpected error from cudaGetDeviceCount()\n"
        "(EngineCore_DP0 pid=88) Error 807: MPS server is not ready to accept new MPS client "
        "requests",
    ),
    "more clients than MPS takes": Case(
        "0.14",
        "MpsClientLimit",
        "fewer replicas",
        "RuntimeError: CUDA error: the hardware resources required to create MPS client have been "
        "exhausted\nSearch for `cudaErrorMpsMaxClientsReached' for more information.",
    ),
    "more connections than MPS takes": Case(
        "0.14",
        "MpsClientLimit",
        "fewer replicas",
        "RuntimeError: CUDA error: the hardware resources required to support device connections "
        "have been exhausted",
    ),
    "a model whose quantisation is another": Case(
        "0.32",
        "ModelConfigInvalid",
        "the model config (awq) does not match",
        "(APIServer pid=1) pydantic_core._pydantic_core.ValidationError: 1 validation error for "
        "ModelConfig\n(APIServer pid=1)   Value error, Quantization method specified in the model "
        "config (awq) does not match the quantization method specified in the `quantization` "
        "argument (gptq). [type=value_error, input_value=ArgsKwargs((), {...}), "
        "input_type=ArgsKwargs]\n(APIServer pid=1)     For further information visit "
        "https://errors.pydantic.dev/2.12/v/value_error",
    ),
    "an architecture that it does not have": Case(
        "0.8",
        "ModelConfigInvalid",
        "FooLM",
        "ValueError: Model architectures ['FooLM'] are not supported for now.",
    ),
    "an older GPU": Case(
        "0.6",
        "EngineArgumentInvalid",
        "compute capability",
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
        "Your Tesla T4 GPU has compute capability 7.5.",
    ),
    "a batch shorter than a sequence": Case(
        "0.10",
        "EngineArgumentInvalid",
        "max_num_batched_tokens (512)",
        "  Value error, max_num_batched_tokens (512) is smaller than max_model_len (4096). This "
        "effectively limits the maximum sequence length [type=value_error]\npydantic_core."
        "ValidationError: 1 validation error for SchedulerConfig",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_found_through_what_follows_it(name: str) -> None:
    case = CASES[name]
    for log in (case.log, case.log + AFTERMATH):
        found = find_cause(log)
        assert found is not None
        reason, message = found
        assert reason == case.reason
        assert case.told in message


def test_every_cause_has_a_case() -> None:
    shown = {case.reason for case in CASES.values()} | {one.reason for one in RECORDED.values()}
    assert shown == {cause.reason for cause in CAUSES}


def test_a_healthy_start_has_no_cause() -> None:
    assert (
        find_cause(
            "(APIServer pid=7) WARNING 11-24 11:54:05 [system_utils.py:255] Found ulimit of 20000 "
            "and failed to increase. This can cause fd limit errors like `OSError: [Errno 24]`\n"
            "(APIServer pid=7) INFO 11-24 11:54:20 [launcher.py:38] Route: /health, Methods: GET\n"
            "(EngineCore pid=9) INFO 11-24 11:54:21 [kv_cache_utils.py:1] GPU KV cache size: 24 "
            "tokens; error 8031 ms"
        )
        is None
    )


@pytest.mark.parametrize(
    "line",
    [
        "vllm.exceptions.VLLMValidationError: This model's maximum context length is 2048 tokens.",
        "requests.exceptions.HTTPError: 403 Client Error: Forbidden for url: https://x/y.png",
        "  Value error, messages must not be empty [type=value_error, input_value={}]",
    ],
)
def test_lines_about_requests_are_no_cause_of_a_later_end(line: str) -> None:
    crash = "(EngineCore pid=9) !!!!!!! Segfault encountered !!!!!!!"
    assert find_cause(f"{line}\n{crash}", was_ready=True) is None


def test_what_a_replica_may_meet_at_any_time_is_a_cause_of_a_later_end() -> None:
    reasons = "OutOfMemory DiskFull MpsFault DeviceFault DeviceUnavailable DriverTooOld"
    for reason in reasons.split():
        case = next(case for case in CASES.values() if case.reason == reason)
        found = find_cause(case.log, was_ready=True)
        assert found is not None and found[0] == reason


def test_without_a_known_cause_the_last_errors_are_quoted_in_short() -> None:
    words = last_words("INFO fine\nRuntimeError: a surprise " + "x" * 2000 + "\nINFO bye")
    assert words.startswith("RuntimeError: a surprise")
    assert len(words) == MAX_QUOTED_ERROR_CHARACTERS
    traceback = (
        "(EngineCore pid=2) KeyError: 'a surprise'\n(APIServer pid=1)     raise RuntimeError("
    )
    assert last_words(traceback + AFTERMATH) == "(EngineCore pid=2) KeyError: 'a surprise'"
    crash = "!!!!!!! Segfault encountered !!!!!!!"
    assert last_words(f"ValueError: of a request\n{crash}\nINFO bye").endswith(crash)
    assert last_words("INFO one\nINFO two") == "INFO one | INFO two"
    assert last_words("") == "no output"
