"""A program that behaves as an engine process does, as far as a replica's life goes.

``python stub_engine.py --port P [options]``: lines to write before it serves (``--say``), seconds
between them, whether it ever serves (``--never-ready``), and whether it leaves a descendant
(``--child``). It answers /health, /v1/completions, /metrics, and, with ``--enable-sleep-mode``,
/sleep and /wake_up.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

METRICS = b"""vllm:generation_tokens_total 1
vllm:prompt_tokens_total 1
vllm:request_success_total 1
vllm:num_requests_running 0
vllm:num_requests_waiting 0
"""


class Handler(BaseHTTPRequestHandler):
    asleep = False
    can_sleep = False

    def do_GET(self) -> None:
        self._answer(200, METRICS)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path in ("/sleep", "/wake_up") and not self.can_sleep:
            self._answer(404, b"{}")
            return
        if path in ("/sleep", "/wake_up"):
            Handler.asleep = path == "/sleep"
        self._answer(500 if Handler.asleep and path == "/v1/completions" else 200, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of requests."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--say", action="append", default=[])
    parser.add_argument("--pause-seconds", type=float, default=0.0)
    parser.add_argument("--never-ready", action="store_true")
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--enable-sleep-mode", action="store_true")
    options = parser.parse_args()
    if options.child:
        child = subprocess.Popen(["sleep", "600"])
        print(f"child {child.pid}", flush=True)
    for line in options.say:
        print(line, flush=True)
        time.sleep(options.pause_seconds)
    while options.never_ready:
        print("still waiting", flush=True)
        time.sleep(0.1)
    Handler.can_sleep = options.enable_sleep_mode
    server = HTTPServer(("127.0.0.1", options.port), Handler)
    print("serving", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
