"""A request's body: in the memory, and counted there, until a pack has taken it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from slm_operator.activator.room import Room

PIECE_BYTES = 64 * 1024
"""So much is given to the connection at a time, which takes more once it has room again. With the
whole body at once the connection would keep what the pack has not taken yet, unseen from here."""


class Body:
    """``room`` counts its ``length`` already."""

    def __init__(self, length: int, room: Room) -> None:
        self._length = length
        self._room = room
        self._content: bytes | None = None

    async def read(self, request: web.Request) -> None:
        """Once, however often it is called."""
        if self._content is None:
            # request.read() would keep a body of its own until the answer's end.
            self._content = await request.content.read()

    def sending(self) -> AsyncIterator[bytes] | None:
        """For one attempt to send it; None where there is nothing to send."""
        return self._pieces(self._content) if self._content else None

    async def _pieces(self, content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]
        del content
        self.drop()

    def drop(self) -> None:
        """Once, however often it is called."""
        self._content = None
        self._room.drop(self._length)
        self._length = 0
