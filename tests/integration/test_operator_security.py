"""What keeps secrets secret and rights small, on the whole stack."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

import builders
from commands import kubectl
from operator_rig import PASSES, Service, another, engine, fixed, until
from slm_dev.stack import Stack
from slm_operator.render import children
from slm_worker.wire import AGENT_PORT

pytestmark = pytest.mark.asyncio(loop_scope="session")

BATCH = 4
USERS_EACH = 3


PLANTED = "hf_planted" + "Q" * 24
"""The hub's token of the service."""
CREDENTIALS = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "planted", "namespace": "default"},
    "stringData": {"key": PLANTED},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(operator_stack: Stack) -> AsyncIterator[Service]:
    """A service of one small replica, with credentials for the hub."""
    await operator_stack.kube.apply(CREDENTIALS)
    spec = fixed(1, **engine(maxNumSeqs=BATCH))
    reference = {"credentialsSecretRef": {"name": "planted", "key": "key"}}
    spec = {**spec, "model": spec["model"] | reference}
    async with Service(operator_stack, "guarded", spec).serving(1) as service:
        yield service


async def test_a_rotated_key_reaches_the_packs_without_a_restart_or_a_lost_answer(
    operator_stack: Stack, guarded: Service
) -> None:
    # The first sample comes after the first answer.
    seen_since = await guarded.condition("MetricsAvailable", "True", "Measured")
    pod, agent = await guarded.pod(), await guarded.agent()
    old = await stored_token(operator_stack)
    async with guarded.users(USERS_EACH) as users:
        await users.served(3)
        operator_stack.rotate_key()

        async def replaced() -> str | None:
            new = await stored_token(operator_stack)
            taken = new != old and await agent_answers(operator_stack, guarded, new) == 200
            return new if taken else None

        await until("the agent takes the new token", replaced)
        assert await agent_answers(operator_stack, guarded, old) == 401
        await another(operator_stack, PASSES)
        await users.served(3)
    assert users.failed == 0, users.failures
    after = await guarded.agent()
    assert (after.agent_id, after.plan) == (agent.agent_id, agent.plan)
    now = await guarded.pod()
    assert now["metadata"]["uid"] == pod["metadata"]["uid"]
    assert now["status"]["containerStatuses"] == pod["status"]["containerStatuses"]
    # At no look was there an agent that could not be read: the old token went on until then.
    assert (await guarded.now()).status.condition("MetricsAvailable") == seen_since


async def stored_token(stack: Stack) -> str:
    secret = await stack.kube.get("v1", "Secret", "guarded-agent-token", "default")
    return base64.b64decode(secret["data"]["token"]).decode()


async def agent_answers(stack: Stack, service: Service, token: str) -> int:
    """The status of an answer to a request with this token."""
    url = f"http://{await stack.pack_address(await service.now())}:{AGENT_PORT}/v1/pack"
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status


async def test_no_secret_is_in_anything_that_operator_and_agent_tell(
    operator_stack: Stack, guarded: Service
) -> None:
    """After a start, a refused token and an engine's death."""
    token = await stored_token(operator_stack)
    stranger = {"data": {"token": base64.b64encode(b"x" * 32).decode()}}
    secret = {"apiVersion": "v1", "kind": "Secret"} | {
        "metadata": {"name": "guarded-agent-token", "namespace": "default"}
    }
    await operator_stack.kube.merge(secret, stranger)
    await guarded.condition("MetricsAvailable", "False", "AgentRefusedToken")
    await guarded.condition("MetricsAvailable", "True", "Measured")
    state = await guarded.agent()
    processes = await guarded.pack_processes()
    for process in processes:
        if process.pid == state.replicas[0].pid:
            assert process.environ()["HF_TOKEN"] == PLANTED, "the token that shall not be told"
            process.kill()
    await guarded.agent_until("healed", lambda s: s.settled and s.replicas[0].starts > 1)
    told = await everything_told(operator_stack, guarded)
    assert all(len(text) > 40 for text in told.values()), "a source that tells nothing"
    secrets = {"hub's token": PLANTED, "agent's token": token, "key": operator_stack.key}
    leaks = [
        f"{source}: {name}"
        for source, text in told.items()
        for name, secret in secrets.items()
        if secret in text or base64.b64encode(secret.encode()).decode() in text
    ]
    assert leaks == []


async def everything_told(stack: Stack, service: Service) -> dict[str, str]:
    """By source: what the API server stores, but Secrets; logs, answers and command lines."""
    kinds = "slm,pods,services,endpointslices,configmaps,pdb,events"
    told = {
        "objects": await kubectl(
            stack, "get", kinds, "-n", "default", "-o", "json", "--show-managed-fields"
        ),
        "describe": await kubectl(stack, "describe", "slm", service.name, "-n", "default"),
        "operator's log": stack.operator.log(),
        "pack's log": stack.pack_log(await service.now()),
        "arguments": "\n".join(
            " ".join(process.cmdline()) for process in await service.pack_processes()
        )
        + " ".join(stack.operator.command),
    }
    address = await stack.pack_address(await service.now())
    agent = f"http://{address}:{AGENT_PORT}"
    headers = {"Authorization": f"Bearer {await stored_token(stack)}"}
    async with aiohttp.ClientSession() as http:
        for url in (
            f"{stack.operator_url}/metrics",
            f"{agent}/metrics",
            f"{agent}/v1/pack",
            f"{agent}/v1/nothing",
        ):
            async with http.get(url, headers=headers) as answer:
                told[url] = await answer.text()
    return told


PODS: dict[str, dict[str, Any]] = {
    "simulated": {},
    "nvidia": {"engine": {}, "gpu": {"kind": "NVIDIA"}},
    "claim": {"model": {"uri": "pvc://claim/m"}, "engine": {}, "gpu": {"kind": "CPU"}},
    "image": {"model": {"uri": "oci://r.example.com/m:v1"}, "engine": {}, "gpu": {"kind": "CPU"}},
}


async def test_packs_are_admitted_where_the_level_restricted_is_enforced(
    operator_stack: Stack, tmp_path: Path
) -> None:
    level = {"pod-security.kubernetes.io/enforce": "restricted"}
    name = "restricted"
    await operator_stack.kube.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": level}}
    )
    manifest = tmp_path / "pod.json"

    async def create(pod: dict[str, Any], refused: bool = False) -> None:
        pod = {**pod, "metadata": {"name": pod["metadata"]["name"], "namespace": name}}
        manifest.write_text(json.dumps(pod))
        await kubectl(
            operator_stack, "create", "--dry-run=server", "-f", str(manifest), refused=refused
        )

    for spec in PODS.values():
        await create(children.pack_pod(builders.service(spec), 0, "worker"))
    stranger = children.pack_pod(builders.service(), 0, "worker")
    stranger["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    await create(stranger, refused=True)
