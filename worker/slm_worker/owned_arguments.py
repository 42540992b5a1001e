"""PURE: the arguments of engines that no user may give. The operator refuses them when a service is
applied, and the agent before it starts an engine."""

from __future__ import annotations

from collections.abc import Mapping

_ADDRESS = "the agent chooses where engines listen"
_PLAIN_HTTP = "the pack's router speaks plain HTTP to engines"
_PLANNED = "the operator plans it"
_MEMORY = "the agent divides the memory"
_ONE_GPU = "a pack is one GPU, and its replicas take the place of parallel workers"

OWNED_ENGINE_ARGUMENTS: Mapping[str, str] = {
    # the address, and how agent and router speak to the engine
    "--api-key": "protect the service in front of the router",
    "--disable-log-stats": "without its metrics an engine cannot be measured",
    "--grpc": _PLAIN_HTTP,
    "--headless": _PLAIN_HTTP,
    "--host": _ADDRESS,
    "--port": _ADDRESS,
    "--root-path": "the router serves engines at the root",
    "--shutdown-timeout": "the agent drains engines before it stops them",
    "--ssl-certfile": _PLAIN_HTTP,
    "--ssl-keyfile": _PLAIN_HTTP,
    "--tokens-only": _PLAIN_HTTP,
    "--uds": _ADDRESS,
    # the model
    "--hf-token": "give the token as a Secret in the environment variable HF_TOKEN",
    "--model": "set model.uri",
    "--revision": "set model.revision",
    "--served-model-name": "set model.name",
    # memory and batch size
    "--device-memory-utilization": _MEMORY,
    "--gpu-memory-utilization": _MEMORY,
    "--kv-cache-memory-bytes": _MEMORY,
    "--max-num-active-seqs": _PLANNED,
    "--max-num-seqs": _PLANNED,
    "--num-gpu-blocks-override": _MEMORY,
    # standby is the plan's
    "--enable-sleep-mode": "the plan's standby decides it",
    # one engine on one GPU
    "--api-server-count": _ONE_GPU,
    "--data-parallel-address": _ONE_GPU,
    "--data-parallel-backend": _ONE_GPU,
    "--data-parallel-external-lb": _ONE_GPU,
    "--data-parallel-hybrid-lb": _ONE_GPU,
    "--data-parallel-multi-port-external-lb": _ONE_GPU,
    "--data-parallel-rank": _ONE_GPU,
    "--data-parallel-rpc-port": _ONE_GPU,
    "--data-parallel-size": _ONE_GPU,
    "--data-parallel-size-local": _ONE_GPU,
    "--data-parallel-start-rank": _ONE_GPU,
    "--decode-context-parallel-size": _ONE_GPU,
    "--device-ids": _ONE_GPU,
    "--distributed-executor-backend": _ONE_GPU,
    "--master-addr": _ONE_GPU,
    "--master-port": _ONE_GPU,
    "--nnodes": _ONE_GPU,
    "--node-rank": _ONE_GPU,
    "--pipeline-parallel-size": _ONE_GPU,
    "--prefill-context-parallel-size": _ONE_GPU,
    "--tensor-parallel-size": _ONE_GPU,
    "-asc": _ONE_GPU,
    "-dcp": _ONE_GPU,
    "-dp": _ONE_GPU,
    "-dpa": _ONE_GPU,
    "-dpb": _ONE_GPU,
    "-dpe": _ONE_GPU,
    "-dph": _ONE_GPU,
    "-dpl": _ONE_GPU,
    "-dpm": _ONE_GPU,
    "-dpn": _ONE_GPU,
    "-dpp": _ONE_GPU,
    "-dpr": _ONE_GPU,
    "-n": _ONE_GPU,
    "-pcp": _ONE_GPU,
    "-pp": _ONE_GPU,
    "-r": _ONE_GPU,
    "-tp": _ONE_GPU,
    # a file could hold any of the above
    "--config": "write its content as engine.args",
}
"""Arguments that the agent alone gives its engines, or that would hide an engine from it, each with
what to do instead.

``EngineConfig.args`` may hold none of them, as ``--x``, ``--x=value``, with underscores,
shortened (vLLM takes any unambiguous beginning for the whole), with a key (``--x.key=value``) or,
of the short ones, with the value glued on (``-n2``).
"""
NOT_OWNED_ENGINE_ARGUMENTS: tuple[str, ...] = ("-dc",)
"""Options of their own, though one of the above begins with them."""
ENGINE_API_KEY = "VLLM_API_KEY"
"""Environment variable that means ``--api-key`` to an engine, and is refused like it."""


def owned_argument(name: str) -> str | None:
    """The owned argument for which vLLM could take ``name``; None where there is none."""
    if name in OWNED_ENGINE_ARGUMENTS:
        return name
    if len(name) < 2 or name in NOT_OWNED_ENGINE_ARGUMENTS:
        return None
    short = not name.startswith("--")
    for owned in OWNED_ENGINE_ARGUMENTS:
        if owned.startswith(name) or (short and name.startswith(owned)):
            return owned
    return None
