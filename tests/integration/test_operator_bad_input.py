"""What cannot work is said in the conditions with cause and remedy, and heals with its cause."""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from model_folder import SMALL_MODEL, write_model
from operator_rig import BARE_IMAGE, SIMULATED, NewService, Service, engine, fixed, until
from slm_dev.stack import Stack
from slm_operator.api.crd import crd
from slm_operator.cluster.connection import KubeError
from slm_worker.wire import AGENT_PORT

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_model_that_is_not_there_yet(new_service: NewService, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    service = await new_service(fixed(model={"uri": f"file://{folder}"}))
    await service.condition("Ready", "False", "ModelNotFound", str(folder))
    await service.condition("PackingFeasible", "Unknown", "ModelNotRead")
    await service.told("ModelNotFound")

    write_model(folder)
    await service.serves()
    await service.condition("PackingFeasible", "True", "Fits")


async def test_a_malformed_config_of_the_model(new_service: NewService, tmp_path: Path) -> None:
    uri = write_model(tmp_path / "model", '{"model_type": "opt",')
    service = await new_service(fixed(model={"uri": uri}))
    await service.condition(
        "Ready", "False", "ModelConfigInvalid", "config.json is no JSON", "published with the model"
    )

    write_model(tmp_path / "model")
    await service.serves()


async def test_a_hub_model_that_the_simulation_does_not_know(new_service: NewService) -> None:
    service = await new_service(fixed(model={"uri": "hf://nobody/nothing"}))
    await service.condition(
        "Ready", "False", "ModelNotFound", "hf://nobody/nothing", "hf://facebook/opt-1.3b"
    )

    await service.apply(model=SIMULATED["model"])
    await service.serves()


async def test_a_model_too_large_for_the_device(new_service: NewService, tmp_path: Path) -> None:
    huge = SMALL_MODEL | {"num_hidden_layers": 96, "hidden_size": 12288, "ffn_dim": 49152}
    uri = write_model(tmp_path / "huge", json.dumps(huge))
    service = await new_service(fixed(model={"uri": uri}))
    said = await service.condition(
        "PackingFeasible", "False", "DoesNotFit", "0 replicas fit, 1 are wanted", "weights"
    )
    assert "KV cache" in said.message and "a GPU with at least" in said.message
    await service.condition("Ready", "False", "DoesNotFit", "weights")
    assert (await service.agent()).plan is None, "a plan that does not fit is not sent"

    await service.apply(model={"uri": write_model(tmp_path / "small")})
    await service.serves()


async def test_more_replicas_than_fit(new_service: NewService) -> None:
    service = await new_service(fixed(32))
    await service.condition("Ready", "False", "DoesNotFit", "32 are wanted")
    await service.apply(replicasPerPack=2)
    await service.serves(2)


async def test_an_engine_argument_that_is_unknown(new_service: NewService) -> None:
    service = await new_service(fixed(**engine(args=["--no-such-thing"])))
    await service.condition(
        "Ready", "False", "EngineArgumentInvalid", "--no-such-thing", "correct engine.args"
    )
    await service.apply(**engine())
    await service.serves()


async def test_an_owned_argument_that_an_older_crd_let_pass(
    operator_stack: Stack, new_service: NewService
) -> None:
    bad = fixed(**engine(args=["--max-num-seqs=9"]))
    await operator_stack.kube.apply(without_argument_rule())

    async def accepted() -> Service | None:
        try:
            return await new_service(bad)
        except KubeError as error:
            assert "--max-num-seqs" in error.message
            return None

    try:
        service: Service = await until("the older CRD is in force", accepted)
    finally:
        await operator_stack.kube.apply(crd())
    await service.condition(
        "Ready", "False", "CrashLoopBackOff", "exit code 2", "engine.args: remove --max-num-seqs"
    )

    await service.apply(**engine())
    await service.serves()


def without_argument_rule() -> dict[str, Any]:
    old = copy.deepcopy(dict(crd()))
    schema = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    arguments = schema["properties"]["spec"]["properties"]["engine"]["properties"]["args"]
    del arguments["items"]["x-kubernetes-validations"]
    return old


async def test_missing_credentials_and_then_a_taken_port(
    operator_stack: Stack, new_service: NewService
) -> None:
    credentials = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "late", "namespace": "default"},
        "data": {"token": base64.b64encode(b"x").decode()},
    }
    model = SIMULATED["model"] | {"credentialsSecretRef": {"name": "late", "key": "token"}}
    service = await new_service(fixed(model=model))
    await service.condition(
        "Ready", "False", "CreateContainerConfigError", 'secret "late" not found; create'
    )
    address = (await service.pod())["status"]["podIP"]
    with socket.create_server((address, AGENT_PORT)):
        await operator_stack.kube.create(credentials)
        await service.condition(
            "Ready",
            "False",
            "CrashLoopBackOff",
            "exit code 3",
            f"the API cannot listen on {address}:{AGENT_PORT}",
            "end the process that does",
        )
    await service.serves()


async def test_a_worker_image_without_haproxy(new_service: NewService, bare_programs: Path) -> None:
    service = await new_service(fixed(**engine(image=BARE_IMAGE)))
    await service.condition("Ready", "False", "RouterUnavailable", "haproxy is not installed")

    haproxy = await asyncio.to_thread(shutil.which, "haproxy")
    assert haproxy is not None
    (bare_programs / "haproxy").symlink_to(haproxy)
    await service.serves()


async def test_a_worker_image_that_nobody_has(new_service: NewService) -> None:
    service = await new_service(fixed(**engine(image="elsewhere:1")))
    await service.condition("Ready", "False", "ImagePullBackOff", "elsewhere:1", "engine.image")
    await service.condition("GPUAllocated", "True", "Allocated")

    await service.apply(**engine())
    await service.serves()


async def test_a_cluster_without_a_free_gpu(new_service: NewService) -> None:
    service = await new_service(fixed(engine={"kind": "vLLM"}, gpu={"kind": "NVIDIA"}))
    await service.condition(
        "GPUAllocated", "False", "Unschedulable", "1 Insufficient nvidia.com/gpu", "Free a GPU"
    )
    await service.condition("Ready", "False", "Unschedulable", "Insufficient nvidia.com/gpu")
    await service.condition("MetricsAvailable", "Unknown", "MetricsMissing")

    await service.apply(engine=SIMULATED["engine"], gpu=SIMULATED["gpu"])
    await service.serves()
    await service.condition("GPUAllocated", "True", "Allocated")
