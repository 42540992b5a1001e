"""A request's body: in the memory, and counted there, until a pack has taken it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from slm_operator.activator.room import Room

PIECE_BYTES = 64 * 1024
"""So much is given to the connection at a time, which takes more once it has room again. With the
whole body at once the connection would keep what the pack has not taken yet, unseen from here."""
SILENCE_SECONDS = 60.0
"""Longest that a client sends nothing of it: as the packs' routers have it."""


class Body:
    """``room`` counts it as it comes."""

    def __init__(self, room: Room) -> None:
        self._room = room
        # Not a list of what came: byte by byte that would be far larger than it counts.
        self._content = bytearray()

    async def read(self, request: web.Request) -> bool:
        """Whether there was room for all of it, and for one more client that sends. Raises
        TimeoutError when a client falls silent."""
        if request.content.is_eof():
            # One that sent all of it at once keeps nobody waiting.
            return await self._take(request)
        if not self._room.send():
            return False
        try:
            return await self._take(request)
        finally:
            self._room.sent()

    async def _take(self, request: web.Request) -> bool:
        while True:
            async with asyncio.timeout(SILENCE_SECONDS):
                # request.read() would keep a body of its own until the answer's end.
                came = await request.content.readany()
            if not came:
                return True
            if not self._room.keep(len(came)):
                return False
            self._content += came

    def sending(self) -> AsyncIterator[bytes] | None:
        """For one attempt to send it; None where there is nothing to send."""
        return self._pieces(self._content) if self._content else None

    async def _pieces(self, content: bytearray) -> AsyncIterator[bytes]:
        for start in range(0, len(content), PIECE_BYTES):
            yield bytes(content[start : start + PIECE_BYTES])
        del content
        self.drop()

    def drop(self) -> None:
        """Once, however often it is called."""
        self._room.drop(len(self._content))
        self._content = bytearray()
