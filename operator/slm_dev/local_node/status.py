"""The status of a Pod from the states of its containers, as the kubelet writes it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from slm_dev.local_node.spec import ContainerSpec, Json, PodSpec


@dataclass(frozen=True)
class Waiting:
    """Not running, for a reason."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    """Its main process runs."""

    started_at: datetime


@dataclass(frozen=True)
class Terminated:
    """Its main process has ended. `exit_code` is 128 + signal for one that a signal ended."""

    exit_code: int
    started_at: datetime
    finished_at: datetime
    signal: int = 0
    message: str = ""
    start_failed: bool = False

    @property
    def reason(self) -> str:
        if self.start_failed:
            return "StartError"
        return "Completed" if self.exit_code == 0 else "Error"


@dataclass(frozen=True)
class ContainerRecord:
    """What is known of one container. `last` is how its attempt before the current one ended."""

    state: Waiting | Running | Terminated
    last: Terminated | None = None
    restarts: int = 0
    started: bool = False
    ready: bool = False
    container_id: str = ""


@dataclass(frozen=True)
class PodEnd:
    """Why a Pod ended for a reason that lies with the node."""

    reason: str
    message: str


def pod_phase(restart_policy: str, records: Sequence[ContainerRecord]) -> str:
    """The phase by the kubelet's rules."""
    ends = [
        record.state if isinstance(record.state, Terminated) else record.last
        for record in records
        if not isinstance(record.state, Running)
    ]
    if any(end is None for end in ends):
        return "Pending"
    if len(ends) < len(records) or restart_policy == "Always":
        return "Running"
    if all(end is not None and end.exit_code == 0 for end in ends):
        return "Succeeded"
    return "Failed" if restart_policy == "Never" else "Running"


def pod_status(
    pod: PodSpec,
    records: Mapping[str, ContainerRecord],
    *,
    address: str,
    started_at: datetime,
    now: datetime,
    previous_conditions: Sequence[Json] = (),
    stopping: bool = False,
    over: bool = False,
    end: PodEnd | None = None,
) -> Json:
    """The body of `status`, with one record for each container by name.

    `stopping` makes the Pod unready while it is being deleted. `over` says that no container will
    run again, so that the Pod has finished whatever its restart policy; `end` may then say why.
    Transition times of unchanged conditions are taken over from `previous_conditions`.
    """
    ordered = [records[container.name] for container in pod.containers]
    phase = pod_phase("Never" if over else pod.restart_policy, ordered)
    if end is not None or (over and phase == "Pending"):
        phase = "Failed"
    status: Json = {
        "phase": phase,
        "conditions": _conditions(pod, ordered, phase, stopping, now, previous_conditions),
        "containerStatuses": [
            _container_status(container, record, stopping)
            for container, record in zip(pod.containers, ordered, strict=True)
        ],
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": timestamp(started_at),
    }
    if end is not None:
        status |= {"reason": end.reason, "message": end.message}
    return status


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, the form of Kubernetes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, truth: bool, now: datetime, reason: str = "", message: str = "") -> Json:
    """A condition that changed now."""
    built: Json = {
        "type": kind,
        "status": str(truth),
        "lastTransitionTime": timestamp(now),
        # Empty texts are sent as well: a patch would otherwise keep what was there.
        "reason": reason,
        "message": message,
    }
    return built


def _conditions(
    pod: PodSpec,
    records: Sequence[ContainerRecord],
    phase: str,
    stopping: bool,
    now: datetime,
    previous: Sequence[Json],
) -> list[Json]:
    unready = [
        container.name
        for container, record in zip(pod.containers, records, strict=True)
        if not record.ready or stopping
    ]
    reason, message = "", ""
    if phase in ("Succeeded", "Failed"):
        reason = "PodCompleted" if phase == "Succeeded" else "PodFailed"
    elif unready:
        reason = "ContainersNotReady"
        message = f"containers with unready status: [{' '.join(unready)}]"
    ready = not reason
    built = [
        condition("Initialized", True, now),
        condition("ContainersReady", ready, now, reason, message),
        condition("Ready", ready, now, reason, message),
    ]
    since = {(each["type"], each["status"]): each["lastTransitionTime"] for each in previous}
    for each in built:
        each["lastTransitionTime"] = since.get(
            (each["type"], each["status"]), each["lastTransitionTime"]
        )
    return built


def _container_status(container: ContainerSpec, record: ContainerRecord, stopping: bool) -> Json:
    return {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "containerID": record.container_id,
        "ready": record.ready and not stopping,
        "started": record.started,
        "restartCount": record.restarts,
        "state": _state(record.state),
        "lastState": _state(record.last) if record.last else {},
    }


def _state(state: Waiting | Running | Terminated) -> Json:
    match state:
        case Waiting(reason, message):
            return {"waiting": {"reason": reason, "message": message}}
        case Running(started_at):
            return {"running": {"startedAt": timestamp(started_at)}}
        case Terminated():
            return {
                "terminated": {
                    "exitCode": state.exit_code,
                    "signal": state.signal,
                    "reason": state.reason,
                    "message": state.message,
                    "startedAt": timestamp(state.started_at),
                    "finishedAt": timestamp(state.finished_at),
                }
            }
