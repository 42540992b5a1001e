"""The demo: the whole system on this host, from an SLMService to its Pareto-optimal replicas."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import yaml
from rich.console import Console

from slm_dev.clients import Clients, Counts
from slm_dev.controlplane import ControlPlaneStartError
from slm_dev.program import StackError
from slm_dev.stack import Stack
from slm_operator.api.models import SLMService
from slm_operator.api.status import HistoryEntry
from slm_operator.cli import output_file, report
from slm_operator.cli.interrupts import interruptible, until_interrupted
from slm_operator.cli.machine import machine
from slm_operator.cli.outcome import DemoFailedError, EngineName, Options, Outcome, Requests
from slm_operator.cli.output_file import OutputFileError
from slm_operator.cli.preparation import EXAMPLES, Prepared, prepare
from slm_operator.cli.progress import Look, View, view
from slm_operator.cluster.agents import AgentError
from slm_operator.cluster.connection import KubeError
from slm_worker.wire import ROUTER_PORT, PackState

LIMIT_SECONDS = {"simulated": 14 * 60.0, "vllm": 20 * 60.0}
STUCK_SECONDS = 90.0
"""A pack that is in trouble for so long without a break will not recover by itself."""
POLL_SECONDS = 0.5
LOG_LINES = 15
REPORT_FOLDER = Path("report")

Present = Callable[[Outcome, Path], None]


def run(options: Options, console: Console, present: Present) -> None:
    """Runs the demo to its end, gives the outcome and its report to ``present``, and takes
    everything down, also on SIGINT and SIGTERM.

    Raises DemoFailedError, OutputFileError for the report, and Interrupted after one of those
    signals.
    """

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    check_report(options.engine)
    with interruptible():
        prepared = prepare(options, say)
        asyncio.run(until_interrupted(Demo(options, prepared, console, present).run()))


class Demo:
    """One run."""

    def __init__(
        self, options: Options, prepared: Prepared, console: Console, present: Present
    ) -> None:
        self._present = present
        self._options = options
        self._prepared = prepared
        self._console = console
        self._began = time.monotonic()
        self._decisions: list[HistoryEntry] = []
        self._counts = Counts()
        self._kills = 0
        self._trouble_since: float | None = None

    async def run(self) -> None:
        """Raises DemoFailedError."""
        try:
            self._say("starting etcd, kube-apiserver, the operator and a node")
            async with Stack(self._prepared.binaries, self._prepared.settings) as stack:
                await self._run_on(stack)
        except (ControlPlaneStartError, StackError) as error:
            raise DemoFailedError(str(error)) from error
        except KubeError as error:
            raise DemoFailedError(f"the demo's own API server refused: {error}") from error
        finally:
            self._say("taken down: no process and no file is left")

    async def _run_on(self, stack: Stack) -> None:
        limit = LIMIT_SECONDS[self._options.engine]
        try:
            async with asyncio.timeout(limit):
                await stack.apply(yaml.safe_dump(self._prepared.manifest))
                self._say(f"applied examples/{EXAMPLES[self._options.engine]}")
                with view(self._console) as shown:
                    service, pack = await self._search(stack, shown)
        except TimeoutError:
            raise DemoFailedError(
                await self._diagnosis(stack, f"no decision within {limit / 60:.0f} minutes")
            ) from None
        except (StackError, DemoFailedError) as error:
            raise DemoFailedError(await self._diagnosis(stack, str(error))) from error
        outcome = self._outcome(service, pack)
        self._present(outcome, report_page(self._options.engine))
        write_report(outcome)
        if self._options.keep:
            await self._stay(stack, service)

    async def _search(self, stack: Stack, shown: View) -> tuple[SLMService, PackState]:
        """Waits for the decision while the clients send. Returns service and pack as they are
        then."""
        async with contextlib.AsyncExitStack() as clients:
            while True:
                stack.operator.check()
                stack.node.check()
                try:
                    service = await self._look(stack, shown)
                    if service.status.ready_packs and not self._counts.sent:
                        await self._send(stack, shown, service, clients)
                    ready = service.status.condition("Ready")
                    if service.status.operating_point and ready and ready.reason == "Serving":
                        return service, await stack.agent_state(service)
                except (KubeError, AgentError) as error:
                    # A host that is busy answers late; the time limit ends what stays silent.
                    if isinstance(error, KubeError) and error.status != 0:
                        raise
                    shown.say(f"no answer, asking again: {error}")
                else:
                    self._give_up_when_stuck(service)
                    if self._options.kill_operator and not self._kills and service.status.frontier:
                        shown.say("killing the operator with SIGKILL and starting it again")
                        self._kills += 1
                        await stack.operator.kill()
                        await stack.start_operator()
                await asyncio.sleep(POLL_SECONDS)

    async def _send(
        self, stack: Stack, shown: View, service: SLMService, until: contextlib.AsyncExitStack
    ) -> None:
        """Lets clients send to the pack until ``until`` closes."""
        address = await stack.pack_address(service)
        if address:
            url = f"http://{address}:{ROUTER_PORT}"
            clients = Clients(url, service.model_name)
            self._counts = clients.counts
            await until.enter_async_context(clients)
            shown.say(f"clients send to {url}, four requests at a time")

    async def _look(self, stack: Stack, shown: View) -> SLMService:
        service = await stack.service(self._prepared.manifest["metadata"]["name"])
        self._decisions += [e for e in service.status.history if e not in self._decisions]
        shown.show(Look(service.status, time.monotonic() - self._began, self._requests()))
        return service

    def _give_up_when_stuck(self, service: SLMService) -> None:
        ready = service.status.condition("Ready")
        in_trouble = ready is not None and ready.status != "True" and ready.reason != "Starting"
        now = time.monotonic()
        if not in_trouble:
            self._trouble_since = None
        elif self._trouble_since is None:
            self._trouble_since = now
        elif now - self._trouble_since > STUCK_SECONDS:
            raise DemoFailedError(f"the service was in trouble for {STUCK_SECONDS:.0f} s")

    def _outcome(self, service: SLMService, pack: PackState) -> Outcome:
        assert service.status.operating_point is not None  # noqa: S101 - waited for
        return Outcome(
            engine=self._options.engine,
            gpu=pack.gpu.name,
            machine=machine(),
            service=service,
            knee=service.status.operating_point,
            decisions=tuple(self._decisions),
            requests=self._requests(),
            load=pack.load,
            operator_kills=self._kills,
            seconds=time.monotonic() - self._began,
            finished_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )

    async def _stay(self, stack: Stack, service: SLMService) -> None:
        address = await stack.pack_address(service)
        body = (
            f'{{"model": "{service.model_name}", "max_tokens": 32, '
            '"messages": [{"role": "user", "content": "Hello"}]}'
        )
        self._say("left running until Ctrl-C; in another terminal:")
        self._say(f"  export KUBECONFIG={stack.kubeconfig}")
        self._say(f"  {self._prepared.binaries.kubectl} get slm")
        self._say(f"  slmctl explain {service.name}")
        self._say(
            f"  curl http://{address}:{ROUTER_PORT}/v1/chat/completions "
            f"-H 'Content-Type: application/json' -d '{body}'"
        )
        await asyncio.Event().wait()

    async def _diagnosis(self, stack: Stack, what: str) -> str:
        """What went wrong, with the Ready condition and the ends of the logs."""
        parts = [f"The demo failed: {what}."]
        try:
            service = await stack.service(self._prepared.manifest["metadata"]["name"])
        except KubeError as error:
            parts.append(f"The API server does not say more: {error}")
        else:
            ready = service.status.condition("Ready")
            said = f"{ready.reason}: {ready.message}" if ready else "the operator never wrote it"
            parts.append(f"Ready condition: {said}")
            parts.append(f"The pack's log ends:\n{_last_lines(stack.pack_log(service))}")
        parts.append(f"The operator's log ends:\n{_last_lines(stack.operator.log_tail())}")
        return "\n".join(parts)

    def _requests(self) -> Requests:
        counts = self._counts
        return Requests(counts.sent, counts.completed, counts.failed, counts.last_failure)

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


def report_page(engine: EngineName) -> Path:
    """Where the report goes, in the current folder; its picture lies beside it."""
    return REPORT_FOLDER / f"demo-{engine}.html"


def check_report(engine: EngineName) -> None:
    """Raises OutputFileError where the report could not be written at the end; leaves nothing."""
    there = REPORT_FOLDER.exists()
    _make_report_folder()
    page = report_page(engine)
    for file in (page, page.with_suffix(".svg")):
        output_file.check("the report", file)
    if not there:
        REPORT_FOLDER.rmdir()


def write_report(outcome: Outcome) -> None:
    """The page, and its picture beside it. Raises OutputFileError."""
    _make_report_folder()
    page = report_page(outcome.engine)
    output_file.write("the report", page, report.html(outcome))
    output_file.write("the report", page.with_suffix(".svg"), report.image(outcome))


def _make_report_folder() -> None:
    try:
        REPORT_FOLDER.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputFileError(
            f"the report's folder {REPORT_FOLDER} cannot be made here ({error.strerror}): run "
            "the demo in a folder that you can write to"
        ) from error


def _last_lines(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()[-LOG_LINES:]) or "  (empty)"
