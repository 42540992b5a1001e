"""What a pass does, in which order, when a service goes to zero packs and when it comes back."""

from __future__ import annotations

import asyncio
from typing import Any

from controller_builders import OBJECT, FakeAgents, FakeKube
from slm_operator.api.models import SLMService
from slm_operator.cluster.connection import KubeError
from slm_operator.cluster.pods import read_pack
from slm_operator.cluster.ports import Ports
from slm_operator.controller import Controller, Settings
from slm_operator.decide.snapshot import Activation, Pack
from slm_operator.gate import Gate
from slm_operator.keys import Keys
from slm_operator.metrics import Metrics
from slm_operator.render.children import pack_pod

SLEEPY = OBJECT | {
    "spec": OBJECT["spec"]
    | {
        "autoscaling": {
            "minPacks": 0,
            "maxPacks": 2,
            "scaleDownStabilization": "20s",
            "calibration": {"when": "Live"},
        }
    }
}
POD: dict[str, Any] = pack_pod(SLMService.from_object(SLEEPY), 0, "w") | {
    "status": {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "containerStatuses": [{"started": True}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}
POD["metadata"]["uid"] = "p0"


class FakeActivator:
    address = "10.0.0.9"

    def __init__(self, done: list[str]) -> None:
        self.ports = Ports(20000, 20000)
        self.held = 0
        self.answers_after_seconds = 0.0
        self.done = done

    async def activation(self, service: SLMService, packs: list[Pack]) -> Activation:
        await asyncio.sleep(self.answers_after_seconds)
        self.ports.saw(service.uid, service.status.activator_port)
        self.done.append(f"route {[p.address for p in packs if p.ready]}")
        return Activation(self.ports.of(service.uid), self.address, held=self.held)

    async def forget(self, uid: str, *, keeps_port: bool) -> None:
        self.done.append(f"forget {uid}")


class Operator:
    def __init__(self) -> None:
        self.kube, self.now = FakeKube(), 0.0
        self.family = "IPv4"
        self.slices: list[dict[str, Any]] = []
        """Of this family."""
        self.activator = FakeActivator(self.kube.done)
        self.controller = Controller(
            self.kube,  # type: ignore[arg-type]
            FakeAgents(),  # type: ignore[arg-type]
            Settings("w", Keys("k" * 32)),
            Metrics(),
            lambda: "2026-01-01T00:00:00Z",
            lambda: self.now,
            activator=self.activator,  # type: ignore[arg-type]
        )
        apply = self.kube.apply

        async def noted(obj: Any, **arguments: Any) -> Any:
            answer = await apply(obj, **arguments)
            if obj["kind"] == "EndpointSlice" and obj["addressType"] == self.family:
                self.slices.append(obj)
            return answer

        self.kube.apply = noted  # type: ignore[method-assign]
        self.activator.ports.all_known = True

    async def look(self, *pods: dict[str, Any], of: dict[str, Any] = SLEEPY) -> list[str]:
        """What is done in a pass 15 s after the one before."""
        self.now += 15.0
        self.kube.done.clear()
        await self.controller.reconcile(of, map(read_pack, pods))
        return list(self.kube.done)

    async def to_zero(self) -> list[str]:
        await self.look(POD)
        await self.look(POD)
        return await self.look(POD)


async def test_clients_are_led_away_before_the_last_pack_ends() -> None:
    operator = Operator()
    done = await operator.to_zero()
    order = ["route ['10.0.0.1']", "apply SLMService status", "apply EndpointSlice"]
    order.append("delete Pod chat-pack-0 p0")
    assert [step for step in done if step in order] == order
    assert operator.slices[-1]["endpoints"] == [
        {"addresses": ["10.0.0.9"], "conditions": {"ready": True}}
    ]
    assert operator.slices[-1]["ports"][0]["port"] == 20000
    assert operator.kube.statuses[-1]["activatorPort"] == 20000


async def test_a_pack_does_not_end_when_its_clients_could_not_be_led_away() -> None:
    operator = Operator()
    await operator.look(POD)
    await operator.look(POD)
    operator.kube.refuse = lambda what: what == "apply EndpointSlice"
    operator.kube.refusal = KubeError(403, "Forbidden", "not allowed")
    assert not any("delete Pod" in step for step in await operator.look(POD))
    assert not any("delete Pod" in step for step in await operator.look(POD))
    operator.kube.refuse = lambda _: False
    assert "delete Pod chat-pack-0 p0" in await operator.look(POD)


async def test_at_zero_nothing_is_written() -> None:
    operator = Operator()
    await operator.to_zero()
    await operator.look()
    assert await operator.look() == ["route []"]


async def test_a_request_brings_the_pack_back_and_clients_are_led_to_it() -> None:
    operator = Operator()
    await operator.to_zero()
    await operator.look()
    operator.activator.held = 1
    assert "apply Pod" in await operator.look()
    assert (await operator.look(POD))[0] == "route ['10.0.0.1']"
    assert operator.slices[-1]["endpoints"], "until all nodes know the pack"
    assert "apply EndpointSlice" in await operator.look(POD)
    assert operator.slices[-1]["endpoints"] == []


async def test_a_least_of_one_leads_nobody_away_from_the_activator_before_a_pack_is_ready() -> None:
    operator = Operator()
    await operator.to_zero()
    await operator.look()
    operator.activator.held = 1
    autoscaling = SLEEPY["spec"]["autoscaling"] | {"minPacks": 1}
    awake = SLEEPY | {"spec": SLEEPY["spec"] | {"autoscaling": autoscaling}}
    assert "apply Pod" in await operator.look(of=awake)
    assert operator.slices[-1]["endpoints"]
    assert (await operator.look(POD, of=awake))[0] == "route ['10.0.0.1']"
    assert operator.slices[-1]["endpoints"], "until all nodes know the pack"
    await operator.look(POD, of=awake)
    assert operator.slices[-1]["endpoints"] == []


async def test_an_activator_that_is_slow_holds_up_the_services_it_is_for_alone() -> None:
    operator, gate = Operator(), Gate(patience_seconds=0.01)
    operator.activator.answers_after_seconds = 0.05
    async with gate.turn() as turn:
        await operator.look(POD)
    assert turn.overstayed


async def test_an_activator_of_another_family_changes_no_slices_type() -> None:
    operator = Operator()
    operator.activator.address, operator.family = "fd00::9", "IPv6"
    await operator.to_zero()
    assert operator.slices[-1]["endpoints"][0]["addresses"] == ["fd00::9"]
    names = {operator.slices[-1]["metadata"]["name"]}
    operator.activator.address = "10.0.0.9"
    await operator.look()
    assert operator.slices[-1]["endpoints"] == []
    operator.controller._activator = None
    stored = SLEEPY | {"status": operator.kube.statuses[-1]}
    operator.controller.forget("u1")
    await operator.controller.reconcile(stored, ())
    assert (operator.slices[-1]["addressType"], operator.slices[-1]["endpoints"]) == ("IPv6", [])
    assert names == {one["metadata"]["name"] for one in operator.slices} == {"chat-activator-ipv6"}


async def test_an_operator_that_restarts_knows_the_port() -> None:
    operator = Operator()
    await operator.to_zero()
    stored = SLEEPY | {"status": operator.kube.statuses[-1]}
    again = Operator()
    again.activator.ports = Ports(20000, 20001)
    await again.controller.reconcile(stored, ())
    assert again.slices[-1]["ports"][0]["port"] == 20000
    assert again.slices[-1]["endpoints"], "no request is lost meanwhile"


async def test_a_service_that_is_deleted_gives_everything_back() -> None:
    operator = Operator()
    await operator.to_zero()
    operator.kube.done.clear()
    assert await operator.controller.finalize(SLEEPY, ())
    assert "delete EndpointSlice chat-activator EndpointSlice-uid" in operator.kube.done
    assert "forget u1" in operator.kube.done
