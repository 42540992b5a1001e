"""PURE: why vLLM ended, from the last lines of its output.

The table goes from the particular to the general, because one failure often drags another behind
it: a full disk shows as a missing file, a device without driver as an engine core that failed.
Lines are as vLLM 0.5 to 0.32, its libraries and the CUDA driver write them; the tests hold samples.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_QUOTED_ERROR_CHARACTERS = 600

MPS_FAULT = "MpsFault"
"""A fatal fault in one MPS client ended this one too: the whole set has to restart."""
DEVICE_FAULT = "DeviceFault"
"""A kernel of its own failed: under MPS this one is the culprit, if only one says so."""
MPS_NOT_READY = "MpsNotReady"
"""MPS takes no new client now, as it does from a fatal fault until every client is gone."""
SLEEP_UNSUPPORTED = "SleepUnsupported"


class Cause(NamedTuple):
    pattern: re.Pattern[str]
    reason: str
    remedy: str
    only_at_start: bool
    """A line like that in the output of an engine that has been ready is about a request."""


def _cause(reason: str, remedy: str, *patterns: str, only_at_start: bool = False) -> Cause:
    return Cause(re.compile("|".join(patterns), re.IGNORECASE), reason, remedy, only_at_start)


CAUSES = (
    _cause(
        "DiskFull",
        "free disk of the node, where the model and compiled kernels are written (HOME), or serve "
        "the model from a volume or an image (pvc://, oci://)",
        r"No space left on device",
        r"Not enough free disk space to download",
        r"Disk quota exceeded",
    ),
    _cause(
        MPS_FAULT,
        "a fatal fault of one MPS client ends all; the agent starts the set again",
        r"MPS client (has been )?terminated",
        r"MPS RPC failure",
        r"remote procedural call between the MPS server and the MPS client failed",
        r"cudaErrorMps(RpcFailure|ClientTerminated)",
        r"CUDA_ERROR_MPS_(RPC_FAILURE|CLIENT_TERMINATED)",
        r"error (code )?(806|810)\b",
    ),
    _cause(
        "MpsClientLimit",
        "plan fewer replicas: the MPS server takes no more clients or connections",
        r"cudaErrorMpsMax(Clients|Connections)Reached",
        r"CUDA_ERROR_MPS_MAX_(CLIENTS|CONNECTIONS)_REACHED",
        r"MPS server has reached its maximum",
        r"hardware resources required to (create MPS client|support device connections) have been",
        r"error (code )?(808|809)\b",
    ),
    _cause(
        MPS_NOT_READY,
        "the agent tries again; if it stays, see gpu.mpsMessage and the log of the MPS daemon",
        r"MPS client failed to connect",
        r"MPS server is not ready",
        r"cudaErrorMps(ConnectionFailed|ServerNotReady)",
        r"CUDA_ERROR_MPS_(CONNECTION_FAILED|SERVER_NOT_READY)",
        r"error (code )?(805|807)\b",
    ),
    _cause(
        "DriverTooOld",
        "update the node's NVIDIA driver, or use a worker image built for an older CUDA; a "
        "cuda-compat library in the image that is older than the driver gives the same error",
        r"NVIDIA driver on your system is too old",
        r"CUDA driver version is insufficient for CUDA runtime version",
        r"unsupported display driver / cuda driver combination",
        r"forward compatibility was attempted on non supported HW",
        r"provided PTX was compiled with an unsupported toolchain",
        r"error (code )?(803|804)\b",
    ),
    _cause(
        "DeviceUnavailable",
        "see nvidia-smi on the node, and that the Pod has a GPU",
        r"No CUDA GPUs are available",
        r"Found no NVIDIA driver",
        r"CUDA-capable device\(s\) is/are busy or unavailable",
        r"no CUDA-capable device is detected",
        r"system not yet initialized",
        r"GPU is lost",
        r"Failed to infer device type",
        r"error (code )?802\b",
    ),
    _cause(
        "DeviceAssert",
        "a kernel met input that it cannot take: the arguments (a longer --max-model-len than the "
        "model has, a quantization) or this version of vLLM do not fit the model",
        r"device-side assert triggered",
        r"cudaErrorAssert",
        r"CUDA_ERROR_ASSERT",
    ),
    _cause(
        DEVICE_FAULT,
        "a kernel failed on the device; if it repeats, see the Xid errors in the node's kernel log",
        r"an illegal (memory access|instruction) was encountered",
        r"misaligned address",
        r"unspecified launch failure",
        r"uncorrectable (NVLink|ECC) error",
        r"uncorrectable ECC error",
        r"CUDA_ERROR_(ILLEGAL_ADDRESS|LAUNCH_FAILED|ECC_UNCORRECTABLE)",
    ),
    _cause(
        "KVCacheTooSmall",
        "lower --max-model-len in engine.args, or plan fewer replicas so that each has more memory",
        r"larger than the available KV cache memory",
        r"larger than the maximum number of tokens that can be stored in KV cache",
        only_at_start=True,
    ),
    _cause(
        "OutOfMemory",
        "plan fewer replicas or smaller batches, or lower --max-model-len in engine.args",
        r"No available memory for the cache blocks",
        r"less than desired (GPU|CPU) memory utilization",
        r"less than requested memory for kv",
        r"CUDA out of memory",
        r"OutOfMemoryError",
        r"(CUDA error|CUDA driver error|Error \[CUDA\]): out of memory",
        r"Cuda failure (\d+ )?'out of memory'",
        r"CUBLAS_STATUS_ALLOC_FAILED",
        r"DefaultCPUAllocator: (can't|not enough)",
        r"Cannot allocate memory",
        r"\bMemoryError\b",
    ),
    _cause(
        "MemoryNotSteady",
        "another process on the GPU gave memory back while this one measured it; the agent tries "
        "again, and nothing else may use the GPU",
        r"Error in memory profiling",
        only_at_start=True,
    ),
    _cause(
        SLEEP_UNSUPPORTED,
        "this engine cannot sleep on this device",
        r"Sleep mode is not supported",
        r"cumem allocator is not supported",
        only_at_start=True,
    ),
    _cause(
        "EngineArgumentInvalid",
        "correct engine.args; `vllm serve --help=all` lists what this version takes",
        r"unrecognized arguments",
        r"error: argument ",
        r"error: ambiguous option",
        r"expected one argument",
        r"is greater than the (derived|drived) max_model_len",
        r"max_num_batched_tokens \(\d+\) is smaller than",
        r"must be greater than or equal to max_num_seqs",
        r"Unknown quantization method",
        r"Cannot find the config file for",
        r"Your device .* \(compute capability .*\) is not supported",
        r"Bfloat16 is only supported on GPUs",
        only_at_start=True,
    ),
    _cause(
        "PackageMissing",
        "use a worker image whose Python packages are whole; the line names the one that is absent",
        r"ModuleNotFoundError: No module named",
        only_at_start=True,
    ),
    _cause(
        "PortTaken",
        "the next start takes another port",
        r"address already in use",
        only_at_start=True,
    ),
    _cause(
        "ModelGated",
        "give a token that may read the model: model.credentialsSecretRef names its Secret; accept "
        "the model's terms with the account of the token. A hub says the same of a model that does "
        "not exist: check model.uri",
        r"gated repo",
        r"GatedRepoError",
        r"\b(401|403) (Client Error|Unauthorized|Forbidden)",
        r"Access to model .* is restricted",
        r"Invalid credentials in Authorization header",
        r"Invalid username or password",
        only_at_start=True,
    ),
    _cause(
        "ModelUnreachable",
        "let the pack reach the model's hub, or serve the model from a volume with file://",
        r"couldn't connect to '?https?://",
        r"outgoing traffic has been disabled",
        r"LocalEntryNotFoundError",
        r"OfflineModeIsEnabled",
        r"Failed to resolve|Temporary failure in name resolution|Name or service not known",
        r"Max retries exceeded with url",
        only_at_start=True,
    ),
    _cause(
        "ModelNotFound",
        "check model.uri and model.revision, and that the pack can read or download it",
        r"Can't load the configuration of",
        r"is not a local folder and is not a valid model",
        r"Repository Not Found",
        r"RepositoryNotFoundError",
        r"RevisionNotFoundError",
        r"does not appear to have a file named",
        r"Repo id must",
        r"HFValidationError",
        r"Invalid repository ID or local directory",
        r"No such file or directory: .*(config\.json|safetensors)",
        r"Cannot find any model weights",
        only_at_start=True,
    ),
    _cause(
        "ModelConfigInvalid",
        "use a model and arguments that this version of vLLM supports",
        r"Model architectures .* (are not supported|failed to be inspected)",
        r"does not recognize this architecture",
        r"Unrecognized model in",
        r"not a valid JSON file",
        r"HeaderTooLarge|InvalidHeaderDeserialization|MetadataIncompleteBuffer",
        r"\bValidationError",
        # What it says is below that line, and the last of these lines is quoted.
        r"Value error, ",
        r"Input should be ",
        only_at_start=True,
    ),
)

_NAMED_ERROR = re.compile(r"\b\w+(Error|Exception): |Segfault encountered|Fatal Python error")
_GENERAL_ERROR = re.compile(r"error|exception|traceback|fatal|assert", re.IGNORECASE)
_NO_CAUSE = re.compile(r"See root cause above|This can cause fd limit errors")
"""Lines that speak of errors and name none."""


def find_cause(log_tail: str, *, was_ready: bool = False) -> tuple[str, str] | None:
    """(reason, message with the line and the remedy); None where no known cause shows.
    ``was_ready``: the engine's start succeeded, so that it is no cause that only starts have."""
    for cause in CAUSES:
        if was_ready and cause.only_at_start:
            continue
        lines = matching_lines(log_tail, cause.pattern)
        if lines:
            return cause.reason, f"{quoted(lines[-1:])}: {cause.remedy}"
    return None


def last_words(log_tail: str) -> str:
    """The last lines that name an error, else those that speak of one, or else the last lines.

    A traceback of many processes ends in frames such as ``raise RuntimeError(``, which say nothing.
    """
    for pattern in (_NAMED_ERROR, _GENERAL_ERROR):
        found = matching_lines(log_tail, pattern)
        if found:
            return quoted(list(dict.fromkeys(found))[-2:])
    return quoted(_lines(log_tail)[-3:])


def matching_lines(log_tail: str, pattern: re.Pattern[str]) -> list[str]:
    return [line for line in _lines(log_tail) if pattern.search(line)]


def quoted(lines: list[str]) -> str:
    return " | ".join(lines)[:MAX_QUOTED_ERROR_CHARACTERS] or "no output"


def _lines(log_tail: str) -> list[str]:
    lines = (line.strip() for line in log_tail.splitlines())
    return [line for line in lines if line and not _NO_CAUSE.search(line)]
