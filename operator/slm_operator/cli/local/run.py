"""``slmctl local``: starts a pack, walks it to its knee, and tells what was found."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich.console import Console

from slm_operator.api.models import SLMService
from slm_operator.api.status import HistoryEntry
from slm_operator.cli.interrupts import until_interrupted
from slm_operator.cli.local import host
from slm_operator.cli.local.answer import Answer
from slm_operator.cli.local.pack import LocalPack
from slm_operator.cli.local.passes import Local, Patience, hopeless, one_pass
from slm_operator.cli.local.request import LocalError, Manifest, service
from slm_operator.cli.machine import machine
from slm_operator.cli.progress import Look, PlainView, View, view
from slm_operator.cluster.agents import AgentError
from slm_operator.decide.decision import Decision
from slm_operator.decide.snapshot import Trouble
from slm_operator.pareto.window import WindowRules
from slm_operator.render.children import pack_config
from slm_worker.wire import PackState

POLL_SECONDS = 1.0
FIRST_ANSWER_SECONDS = 60.0
"""A busy host imports the agent's modules in some ten."""

Present = Callable[[Answer], None]


@dataclass(frozen=True)
class Settings:
    keep: bool
    """Serve on after the decision, until a signal."""
    port: int | None
    """Of the router; None: the usual one, or any that is free."""
    rules: WindowRules


def run(wanted: Manifest, settings: Settings, console: Console, present: Present) -> None:
    """Runs to the decision, gives the answer to ``present``, and takes everything down, also on
    SIGINT and SIGTERM.

    Raises LocalError, and Interrupted after one of those signals.
    """
    host.require_programs(simulated=service(wanted).spec.engine.kind == "Simulated")
    asyncio.run(until_interrupted(_Run(wanted, settings, console, present).run()))


class _Run:
    def __init__(
        self, wanted: Manifest, settings: Settings, console: Console, present: Present
    ) -> None:
        self._wanted = wanted
        self._settings = settings
        self._console = console
        self._present = present
        self._began = time.monotonic()
        self._local = Local(service(wanted))
        self._patience = Patience()
        self._decisions: list[HistoryEntry] = []

    async def run(self) -> None:
        """Raises LocalError."""
        own = self._local.service
        answer = None
        try:
            with host.claimed_ports(self._settings.port) as ports:
                self._say(_start_line(own))
                async with LocalPack(pack_config(own), ports) as pack:
                    try:
                        answer = await self._find(pack)
                        if self._settings.keep:
                            self._present(answer)
                            await self._serve_on(pack)
                    finally:
                        self._say("ending the pack: agent, router and engines")
        finally:
            # The answer comes last, and also when somebody does not wait for the pack's end.
            if answer is not None and not self._settings.keep:
                self._present(answer)

    async def _find(self, pack: LocalPack) -> Answer:
        with view(self._console) as shown:
            state = await self._until(self._decided, pack, shown)
        return Answer(
            wanted=self._wanted,
            service=self._local.service,
            gpu=state.gpu.name,
            machine=machine(),
            decisions=tuple(self._decisions),
            load=state.load,
            seconds=time.monotonic() - self._began,
            finished_at=_now(),
        )

    async def _until(self, over: Callable[[], bool], pack: LocalPack, shown: View) -> PackState:
        """Passes until ``over``; what the agent answered last."""
        state = await self._first_answer(pack)
        while True:
            pack.check()
            answer = await _ask(pack)
            decision = self._pass(answer, shown)
            if isinstance(answer, PackState):
                state = answer
            if over():
                return state
            self._give_up_if_hopeless(answer, pack)
            await self._send(decision, pack)
            await asyncio.sleep(min(POLL_SECONDS, decision.poll_seconds))

    async def _first_answer(self, pack: LocalPack) -> PackState:
        deadline = time.monotonic() + FIRST_ANSWER_SECONDS
        while True:
            pack.check()
            answer = await _ask(pack)
            if isinstance(answer, PackState):
                return answer
            if time.monotonic() > deadline:
                raise LocalError(answer.message, pack.log_end())
            await asyncio.sleep(POLL_SECONDS / 4)

    def _pass(self, answer: PackState | Trouble, shown: View) -> Decision:
        self._local, decision = one_pass(self._local, answer, self._settings.rules, _now())
        status = self._local.status
        self._decisions += [e for e in status.history if e not in self._decisions]
        self._patience = self._patience.after(self._local, time.monotonic())
        shown.show(Look(status, time.monotonic() - self._began))
        return decision

    async def _send(self, decision: Decision, pack: LocalPack) -> None:
        for _, plan in decision.plans:
            try:
                await pack.put_plan(plan)
            except AgentError as error:
                refused = Trouble(error.reason, error.message)
                self._local = replace(self._local, refused=refused)

    def _give_up_if_hopeless(self, answer: PackState | Trouble, pack: LocalPack) -> None:
        trouble = hopeless(self._local, answer)
        if trouble is None and self._patience.over(answer, time.monotonic()):
            ready = self._local.status.condition("Ready")
            trouble = Trouble(ready.reason, ready.message) if ready else None
        if trouble is not None:
            # Before there are replicas the trouble itself is all that the log has.
            log = pack.log_end() if isinstance(answer, Trouble) or answer.replicas else ""
            raise LocalError(f"{trouble.reason}: {trouble.message}", log)

    def _decided(self) -> bool:
        return self._local.serves_it if self._settings.keep else self._local.found

    async def _serve_on(self, pack: LocalPack) -> None:
        name = self._local.service.model_name
        body = (
            f'{{"model": "{name}", "max_tokens": 32, '
            '"messages": [{"role": "user", "content": "Hello"}]}'
        )
        self._say("serving until Ctrl-C; in another terminal:")
        self._say(
            f"  curl {pack.url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
        )
        self._say(f"  tail -f {pack.log}")
        await self._until(lambda: False, pack, PlainView(self._console, self._local.status))

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)


async def _ask(pack: LocalPack) -> PackState | Trouble:
    try:
        return await pack.state()
    except AgentError as error:
        return Trouble(error.reason, error.message)


def _start_line(own: SLMService) -> str:
    scaling = own.autoscaling
    most, batch = scaling.max_replicas_per_pack, own.spec.engine.max_num_seqs
    return (
        f"starting {own.spec.model.uri} with the {own.spec.engine.kind} engine on the "
        f"{own.spec.gpu.kind} device: up to {most} replica{'s' if most > 1 else ''}"
        f"{f' of {batch} sequences' if batch else ''}, {scaling.calibration.prompt_tokens} tokens "
        f"in and {scaling.calibration.output_tokens} out, objective {scaling.objective}"
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
