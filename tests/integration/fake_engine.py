"""Small engines inside the test process, to stand behind the real router."""

from __future__ import annotations

import asyncio

from aiohttp import web

from ports import free_port

CHUNKS = 20


class FakeEngine:
    """Answers ``POST /v1/completions`` after ``?seconds=``, streams with ``?stream=1``, or writes
    as many MiB as ``?mebibytes=`` says. While ``gate`` is cleared every completion waits for it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self.in_flight = 0
        self.most_in_flight = 0
        self.served = 0
        self.asked = 0
        self.abandoned = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.request_ids: list[str | None] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_route("*", "/{path:.*}", self._describe)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, backlog=2048).start()

    async def kill(self) -> None:
        """Stop listening and cut what is in flight, as a death of the process does."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _describe(self, request: web.Request) -> web.Response:
        self.asked += 1
        return web.json_response({"engine": self.name})

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.request_ids.append(request.headers.get("X-Request-Id"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await request.read()
            await asyncio.sleep(float(request.query.get("seconds", "0.005")))
            if "stream" in request.query:
                return await self._stream(request)
            await self.gate.wait()
            if "mebibytes" in request.query:
                return await self._flood(request, int(request.query["mebibytes"]))
            self.served += 1
            return web.Response(text=self.name)
        except asyncio.CancelledError:
            self.abandoned += 1
            raise
        finally:
            self.in_flight -= 1

    async def _flood(self, request: web.Request, mebibytes: int) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(mebibytes):
            await response.write(bytes(2**20))
        return response

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(CHUNKS):
            await response.write(f"data: {self.name} {number}\n\n".encode())
            await asyncio.sleep(0.01)
            await self.gate.wait()
        await response.write(b"data: [DONE]\n\n")
        self.served += 1
        return response
