"""Prompt and output lengths as users really have them, and a load of them that fills a pack."""

from __future__ import annotations

import asyncio
import csv
import itertools
import math
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks.gpu.models import LEAST_VOCABULARY

SAMPLE = Path(__file__).with_name("data") / "conversation-lengths.csv"
SOURCE = "Azure LLM inference trace 2023, conversation: every twentieth request that fits"
FIRST_WORD = 100
"""Lower token numbers mean things such as the end of a text."""
PAUSE_AFTER_FAILURE_SECONDS = 0.2


@dataclass(frozen=True)
class Length:
    prompt_tokens: int
    output_tokens: int


def read_lengths(max_model_len: int, file: Path = SAMPLE) -> tuple[Length, ...]:
    """Of the requests that fit into ``max_model_len`` tokens, in the order of their arrival."""
    with file.open(newline="") as rows:
        lengths = [
            Length(int(row["prompt_tokens"]), int(row["output_tokens"]))
            for row in csv.DictReader(rows)
        ]
    return tuple(
        one
        for one in lengths
        if one.output_tokens > 0 and one.prompt_tokens + one.output_tokens <= max_model_len
    )


TRACE = "trace"


def lengths_of(workload: str, max_model_len: int) -> tuple[Length, ...]:
    """``trace``: those of SOURCE; ``111+292``: always so many prompt and output tokens.

    Raises ValueError.
    """
    if workload == TRACE:
        return read_lengths(max_model_len)
    found = re.fullmatch(r"([1-9]\d*)\+([1-9]\d*)", workload)
    if found is None:
        raise ValueError(f"workload {workload!r}: write {TRACE}, or PROMPT+OUTPUT such as 111+292")
    length = Length(int(found[1]), int(found[2]))
    if length.prompt_tokens + length.output_tokens > max_model_len:
        raise ValueError(f"workload {workload!r}: the model takes {max_model_len} tokens at most")
    return (length,)


class TraceLoad:
    """Sends requests of these lengths, one after another round, as many at once as are wanted.

    Each client's first answer ends early by chance, so that prompts are read and answers written
    side by side from the beginning, as they are after a long while.
    """

    def __init__(
        self, *, url: str, model_name: str, lengths: Sequence[Length], rng: random.Random
    ) -> None:
        self._url = f"{url}/v1/completions"
        self._model_name = model_name
        self._lengths = itertools.cycle(lengths)
        self._rng = rng
        self.completed = 0
        self.failures: list[str] = []

    @asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """With so many requests at once; those in flight at the end are cancelled."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            tasks = [asyncio.create_task(self._ask(session)) for _ in range(clients)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        share = self._rng.random()
        while True:
            try:
                async with session.post(self._url, json=self._body(share)) as answer:
                    text = await answer.read()
                failure = None if answer.status == 200 else f"{answer.status} {text[:200]!r}"
            except (aiohttp.ClientError, OSError) as error:
                failure = repr(error)
            if failure is None:
                share = 1.0
                self.completed += 1
            else:
                self.failures.append(failure)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    def _body(self, share: float) -> dict[str, object]:
        length = next(self._lengths)
        output_tokens = math.ceil(share * length.output_tokens) or 1
        words = range(FIRST_WORD, LEAST_VOCABULARY)
        return {
            "model": self._model_name,
            "prompt": self._rng.choices(words, k=length.prompt_tokens),
            "max_tokens": output_tokens,
            "min_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
        }
