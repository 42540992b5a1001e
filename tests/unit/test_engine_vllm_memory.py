"""What vLLM says of its memory at its start, version by version.

The lines are of the form that each version prints; models and figures vary.
"""

from __future__ import annotations

import pytest

from slm_worker.engine.vllm_memory import EngineMemory, memory_told

GIB = 2**30

V0_5 = """
INFO 07-17 23:41:16 model_runner.py:559] Loading model weights took 14.9595 GB
INFO 07-17 23:41:28 gpu_executor.py:83] # GPU blocks: 27896, # CPU blocks: 2048
INFO 07-17 23:41:48 model_runner.py:1048] Graph capturing finished in 17 secs.
"""
V0_6_4 = """
INFO 12-13 02:09:14 model_runner.py:1094] Loading model weights took 18.4902 GB
INFO 12-13 02:10:28 worker.py:237] Memory profiling results: duration=71.88 seconds, \
total_gpu_memory=79.15GiB, initial_memory_usage=19.68GiB, peak_torch_memory=34.32GiB, \
memory_usage_post_profile=35.32GiB, non_torch_memory=1.96GiB, kv_cache_size=34.96GiB, \
gpu_memory_utilization=0.90.
"""
V0_8_OLD_ENGINE = """
INFO 04-04 17:57:59 [loader.py:429] Loading weights took 0.56 seconds
INFO 04-04 17:57:59 [model_runner.py:1146] Model loading took 0.4678 GB and 114.953146 seconds
INFO 04-04 17:58:00 [worker.py:268] Memory profiling takes 0.91 seconds
INFO 04-04 17:58:00 [worker.py:268] the current vLLM instance can use total_gpu_memory (16.00GiB) \
x gpu_memory_utilization (0.90) = 14.40GiB
INFO 04-04 17:58:00 [worker.py:268] model weights take 0.47GiB; non_torch_memory takes 0.03GiB; \
PyTorch activation peak memory takes 0.50GiB; the rest of the memory reserved for KV Cache is \
13.40GiB.
INFO 04-04 17:58:19 [model_runner.py:1570] Graph capturing finished in 17 secs, took 0.15 GiB
"""
V0_8 = """
INFO 04-24 16:33:00 [gpu_model_runner.py:1316] Model loading took 14.9889 GiB and 3.652170 seconds
INFO 04-24 16:33:13 [kv_cache_utils.py:634] GPU KV cache size: 158,656 tokens
INFO 04-24 16:33:40 [gpu_model_runner.py:1686] Graph capturing finished in 22 secs, took 0.51 GiB
"""
V0_10 = """
(EngineCore_0 pid=265) INFO 08-18 09:59:50 [gpu_model_runner.py:2007] Model loading took 2.2845 \
GiB and 74.270197 seconds
(EngineCore_0 pid=265) INFO 08-18 09:59:58 [gpu_worker.py:276] Available KV cache memory: 20.93 GiB
(EngineCore_0 pid=265) INFO 08-18 10:00:06 [gpu_model_runner.py:2708] Graph capturing finished in \
6 secs, took 0.38 GiB
(EngineCore_0 pid=265) INFO 08-18 10:00:06 [gpu_worker.py:391] Free memory on device (39.0/39.49 \
GiB) on startup. Desired GPU memory utilization is (0.9, 35.54 GiB). Actual usage is 2.29 GiB for \
weight, 1.23 GiB for peak activation, 0.02 GiB for non-torch memory, and 0.38 GiB for CUDAGraph \
memory. Current kv cache memory in use is 20.93 GiB.
"""
V0_23 = """
(EngineCore pid=5098) INFO 06-02 00:51:40 [gpu_model_runner.py:4879] Model loading took 7.64 GiB \
memory and 32.969258 seconds
(EngineCore pid=5098) INFO 06-02 00:52:01 [gpu_worker.py:655] Initial free memory 78.6 GiB, \
reserved 8.0 GiB memory for KV Cache as specified by kv_cache_memory_bytes config and skipped \
memory profiling. This does not respect the gpu_memory_utilization config.
(EngineCore pid=5098) INFO 06-02 00:52:14 [gpu_model_runner.py:6582] Graph capturing finished in \
8 secs, took 0.71 GiB
"""
V0_32_CPU = """
(EngineCore pid=5098) INFO 11-24 12:40:37 [default_loader.py:501] Loading weights took 2.07 seconds
(EngineCore pid=5098) INFO 11-24 12:40:38 [cpu_worker.py:260] Explicitly set (0.25/11.84) GiB for \
KV cache on node 0.
(EngineCore pid=5098) INFO 11-24 12:40:38 [kv_cache_utils.py:2327] CPU KV cache size: 5,760 \
tokens, Maximum concurrency for 512 tokens per request: 11.25x
"""


def told(*sizes_gib: float | None) -> EngineMemory:
    """Weights, activations, graphs, KV cache."""
    return EngineMemory(*(None if size is None else round(size * GIB) for size in sizes_gib))


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        pytest.param(V0_5, told(14.9595, None, None, None), id="0.5"),
        pytest.param(V0_6_4, told(18.4902, None, None, 34.96), id="0.6.4"),
        pytest.param(V0_8_OLD_ENGINE, told(0.4678, 0.5, 0.15, 13.4), id="0.8, old engine"),
        pytest.param(V0_8, told(14.9889, None, 0.51, None), id="0.8"),
        pytest.param(V0_10, told(2.29, 1.23, 0.38, 20.93), id="0.10"),
        pytest.param(V0_23, told(7.64, None, 0.71, 8.0), id="0.23 with a given KV cache"),
        pytest.param(V0_32_CPU, told(None, None, None, 0.25), id="0.32 on a CPU"),
        pytest.param("", told(None, None, None, None), id="nothing"),
        pytest.param(
            "the rest of the memory reserved for KV Cache is -0.22GiB.",
            told(None, None, None, None),
            id="a cache that does not fit",
        ),
    ],
)
def test_each_version_is_understood(log: str, expected: EngineMemory) -> None:
    assert memory_told(log) == expected


def test_the_last_of_a_kind_counts() -> None:
    assert memory_told(V0_10 + V0_8) == told(14.9889, 1.23, 0.51, 20.93)
