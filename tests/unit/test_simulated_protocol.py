"""The lines of the simulated GPU's daemon: what is understood, answered and refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from simulated_gpu import IDLE_WATTS, FlatPace, gpu
from slm_worker.gpu.simulated.protocol import Reply, Server
from slm_worker.gpu.simulated.state import Pace
from slm_worker.gpu.simulated.state_file import render

MODEL = {"layers": 24}


def pace_of(model: Mapping[str, object]) -> Pace:
    if "layers" not in model:
        raise ValueError("layers: Field required")
    return FlatPace()


def server() -> Server:
    return Server(gpu(), "Simulated GPU", pace_of)


def ask(device: Server, connection: int = 1, **request: Any) -> dict[str, Any]:
    return tell(device, connection, **request).answer


def tell(device: Server, connection: int = 1, **request: Any) -> Reply:
    return device.reply(connection, 1000 + connection, json.dumps(request).encode())


def attached(*connections: int) -> Server:
    device = server()
    for connection in connections:
        ask(device, connection, op="attach", memory_bytes=40, model=MODEL)
    return device


def test_an_engine_attaches_steps_and_resizes() -> None:
    device = server()

    assert ask(device, op="attach", memory_bytes=40, model=MODEL) == {"delay_seconds": 0.0}
    answer = ask(device, op="step", running=16)
    assert answer == {
        "step_seconds": pytest.approx(0.03, rel=0.05),  # the first
        "stalled": False,
        "kv_share": 1.0,
    }
    assert ask(device, op="resize", memory_bytes=20) == {}
    assert ask(device, op="read")["processes"] == [[1001, 20]]


def test_a_reading_has_what_the_instruments_say() -> None:
    assert ask(attached(1, 2), op="read") == {
        "name": "Simulated GPU",
        "memory_bytes": 100,
        "memory_used_bytes": 80,
        "energy_millijoules": 0,
        "power_watts": IDLE_WATTS,
        "utilization_percent": 0,
        "processes": [[1001, 40], [1002, 40]],
        "health": {"state": "Healthy", "reason": "", "message": "", "since_seconds": None},
        "mps": {"faulted": False, "message": "", "faults": 0, "suspect_pids": []},
    }


def test_a_lost_gpu_says_nothing_but_that_it_is_lost() -> None:
    device = attached(1)
    reply = tell(device, 9, op="inject", fault={"kind": "GpuLost"})
    assert (reply.answer, reply.endings) == ({"ended_pids": [1001]}, {1: "GpuLost"})

    reading = ask(device, 9, op="read")
    unknown = ("memory_used_bytes", "energy_millijoules", "power_watts", "utilization_percent")
    assert [reading[key] for key in unknown] == [None] * 4
    assert reading["processes"] is None
    assert (reading["health"]["state"], reading["health"]["since_seconds"]) == ("Lost", 1000.0)


def test_mps_is_faulted_until_told_to_recover() -> None:
    device = attached(1)
    reply = tell(device, 9, op="inject", fault={"kind": "MpsFault", "pid": 1001})
    assert reply.endings == {1: "MpsCulprit"}
    mps = ask(device, 9, op="read")["mps"]
    assert (mps["faulted"], mps["faults"], mps["suspect_pids"]) == (True, 1, [1001])
    assert "fatal fault" in mps["message"]
    refusal = ask(device, 2, op="attach", memory_bytes=1, model=MODEL)
    assert refusal["reason"] == "MpsNotReady"

    ask(device, 9, op="release", pids=[1001])
    ask(device, 9, op="recover")
    mps = ask(device, 9, op="read")["mps"]
    assert mps == {"faulted": False, "message": "", "faults": 1, "suspect_pids": []}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not a line of JSON"),
        (b"\xff\n", "not a line of JSON"),
        (b"[]", "not a JSON object"),
        (b'{"op": "reset"}', "op 'reset': use read, attach,"),
        (b'{"op": "attach"}', "memory_bytes None: use a whole number"),
        (b'{"op": "attach", "memory_bytes": -1}', "memory_bytes -1"),
        (b'{"op": "attach", "memory_bytes": true}', "memory_bytes True"),
        (b'{"op": "attach", "memory_bytes": 1}', "model None: use the content of its config"),
        (b'{"op": "attach", "memory_bytes": 1, "model": {}}', "model: layers: Field required"),
        (b'{"op": "step", "running": 1}', "not attached, or released: attach first"),
        (b'{"op": "resize", "memory_bytes": 1}', "attach first"),
        (b'{"op": "release", "pids": ["x"]}', "pids ['x']: use a list of process ids"),
        (b'{"op": "inject"}', "fault: Input should be"),
        (b'{"op": "inject", "fault": {"kind": "Rain"}}', "fault.kind: Input should be"),
        (b'{"op": "inject", "fault": {"kind": "Hang", "pid": 5}}', "pid 5 is no engine"),
    ],
)
def test_the_protocol_refuses(line: bytes, message: str) -> None:
    refusal = server().reply(1, 1001, line).answer

    assert refusal["reason"] == "InvalidRequest"
    assert message in str(refusal["error"])


def test_a_step_has_a_bounded_number_of_sequences() -> None:
    refusal = ask(attached(1), op="step", running=4097)

    assert "running 4097: use a whole number from 0 to 4096" in refusal["error"]


def test_a_second_attach_is_refused() -> None:
    refusal = ask(attached(1), op="attach", memory_bytes=1, model=MODEL)

    assert "attached already" in refusal["error"]


def test_exhausted_memory_has_a_reason_of_its_own() -> None:
    refusal = ask(server(), op="attach", memory_bytes=101, model=MODEL)

    assert refusal["reason"] == "OutOfMemory"


def test_the_state_file_has_the_instruments_line_by_line() -> None:
    device = attached(1, 2)
    assert render(device.gpu).splitlines() == [
        "memory_total_bytes 100",
        "memory_used_bytes 80",
        "energy_millijoules 0",
        "power_milliwatts 70000",
        "utilization_percent 0",
        "process 1001 40",
        "process 1002 40",
    ]

    ask(device, op="inject", fault={"kind": "GpuLost"})
    assert render(device.gpu) == "memory_total_bytes 100\n"
