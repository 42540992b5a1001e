"""The agent's HTTP API over a fake agent: authentication, refusals, health, metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer

from fake_agent import BEARER, PLAN, TOKEN, Client, FakeAgent, pack_state
from slm_worker.agent import PlanRefusedError
from slm_worker.server import MAX_BODY_BYTES, make_app
from slm_worker.wire import (
    LEADER_EPOCH_HEADER,
    ApiError,
    PackState,
)


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def client(agent: FakeAgent) -> AsyncIterator[Client]:
    async with TestClient(TestServer(make_app(agent, lambda: TOKEN))) as client:
        yield client


async def refusal(response: ClientResponse) -> ApiError:
    return ApiError.model_validate_json(await response.text())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer \u00e9"},
    ],
    ids=["missing", "wrong", "no scheme", "another scheme", "not ASCII"],
)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/pack"), ("PUT", "/v1/pack/plan"), ("GET", "/v1/other")]
)
async def test_without_the_token_everything_else_is_refused(
    client: Client, agent: FakeAgent, headers: dict[str, str], method: str, path: str
) -> None:
    async with client.request(
        method, path, headers=headers, data=PLAN.model_dump_json()
    ) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert (await refusal(response)).reason == "Unauthorized"
    assert agent.accepted == []


async def test_the_pack_is_told(client: Client) -> None:
    async with client.get("/v1/pack", headers=BEARER) as response:
        assert response.status == 200
        assert PackState.model_validate_json(await response.text()) == pack_state()


async def test_a_plan_is_accepted_and_answered_with_the_pack(
    client: Client, agent: FakeAgent
) -> None:
    async with client.put("/v1/pack/plan", headers=BEARER, data=PLAN.model_dump_json()) as response:
        assert response.status == 200
        assert PackState.model_validate_json(await response.text()).plan == PLAN
    assert agent.accepted == [PLAN]


async def test_the_agents_refusal_is_passed_on(client: Client, agent: FakeAgent) -> None:
    error = ApiError(reason="DoesNotFit", message="too many", max_replicas=4)
    agent.refusal = PlanRefusedError(422, error)
    async with client.put("/v1/pack/plan", headers=BEARER, data=PLAN.model_dump_json()) as response:
        assert response.status == 422
        assert await refusal(response) == error


async def test_a_former_leader_is_refused_as_soon_as_another_was_heard_of(
    client: Client, agent: FakeAgent
) -> None:
    async def put(epoch: str | None) -> int:
        named = {} if epoch is None else {LEADER_EPOCH_HEADER: epoch}
        body = PLAN.model_dump_json()
        async with client.put("/v1/pack/plan", headers=BEARER | named, data=body) as response:
            if response.status == 409:
                said = await refusal(response)
                assert said.reason == "StaleLeader"
                assert said.message == f"epoch {epoch} is over, 8 has begun: another operator leads"
            return response.status

    assert await put("7") == 200
    async with client.get("/v1/pack", headers=BEARER | {LEADER_EPOCH_HEADER: "8"}):
        pass
    agent.accepted.clear()
    assert [await put(old) for old in ("7", "x", "-9", "9" * 5000)] == [409] * 4
    assert agent.accepted == []
    assert [await put(new) for new in ("8", "9", None)] == [200] * 3


async def test_no_stranger_can_claim_to_lead(client: Client) -> None:
    async with client.get("/v1/pack", headers={LEADER_EPOCH_HEADER: "99"}) as response:
        assert response.status == 401
    named = BEARER | {LEADER_EPOCH_HEADER: "1"}
    async with client.put("/v1/pack/plan", headers=named, data=PLAN.model_dump_json()) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("no json", "plan: Invalid JSON"),
        ('{"generation": 0}', "generation: Input should be greater than or equal to 1 (got 0)"),
        (
            '{"generation": 1, "layout": {"replicas": 99, "max_num_seqs": 8}, "rotation": 1}',
            "layout.replicas: Input should be less than or equal to 32 (got 99)",
        ),
        (
            '{"generation": 1, "layout": {"replicas": 1, "max_num_seqs": 8}, "rotation": 2}',
            "rotation 2 exceeds layout.replicas 1",
        ),
        (PLAN.model_dump_json()[:-1] + ', "extra": 1}', "extra: Extra inputs are not permitted"),
    ],
)
async def test_an_invalid_plan_is_refused_by_field_and_value(
    client: Client, agent: FakeAgent, body: str, told: str
) -> None:
    async with client.put("/v1/pack/plan", headers=BEARER, data=body) as response:
        assert response.status == 422
        error = await refusal(response)
    assert error.reason == "InvalidPlan"
    assert told in error.message
    assert agent.accepted == []


async def test_an_oversized_body_is_refused(client: Client, agent: FakeAgent) -> None:
    async with client.put(
        "/v1/pack/plan", headers=BEARER, data=" " * (MAX_BODY_BYTES + 1)
    ) as response:
        assert response.status == 413
        assert (await refusal(response)).reason == "InvalidPlan"
    assert agent.accepted == []


async def test_an_unknown_path_is_refused_in_the_apis_shape(client: Client) -> None:
    async with client.get("/v1/other", headers=BEARER) as response:
        assert response.status == 404
        assert (await refusal(response)).reason == "NotFound"


async def test_health_and_readiness_need_no_token(client: Client, agent: FakeAgent) -> None:
    for path in ("/healthz", "/readyz"):
        async with client.get(path) as response:
            assert response.status == 200
    agent.alive, agent.not_ready = False, "no replica is in rotation yet"
    async with client.get("/healthz") as response:
        assert response.status == 503
    async with client.get("/readyz") as response:
        assert response.status == 503
        assert "no replica is in rotation yet" in await response.text()


async def test_metrics_are_told_to_prometheus(client: Client) -> None:
    async with client.get("/metrics") as response:
        assert response.status == 200
        text = await response.text()
    for line in (
        "slm_pack_output_tokens_total 700.0",
        "slm_pack_energy_joules_total 2.5",
        'slm_pack_replicas{phase="Ready"} 1.0',
        'slm_pack_replicas{phase="Failed"} 0.0',
        "slm_pack_router_queue 3.0",
        'slm_pack_router_requests_total{answer="2xx"} 9.0',
        "slm_pack_router_rejected_total 2.0",
        'slm_pack_replica_in_flight{replica="0"} 4.0',
        'slm_pack_replica_served_total{replica="0"} 9.0',
        "slm_pack_power_watts 300.0",
        "slm_pack_gpu_utilization_ratio 0.9",
        'slm_pack_gpu_health{state="Degraded"} 1.0',
        'slm_pack_gpu_health{state="Healthy"} 0.0',
        'slm_pack_gpu_throttled{reason="SwPowerCap"} 1.0',
        'slm_pack_itl_seconds_bucket{le="0.1"} 6.0',
        "slm_pack_itl_seconds_count 7.0",
    ):
        assert line in text.splitlines()
    assert "slm_pack_gpu_memory_used_bytes" not in text, "what is unknown is no zero"
