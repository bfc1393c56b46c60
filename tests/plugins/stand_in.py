"""Stands in for the data service where a test is about pods: it starts at once and needs no database. It is a
program of a pod of its own, not imported by tests.

It answers the probes, tells the file it was given, and ends on SIGTERM.
"""

import os
import signal
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        paths = {
            "/livez": "",
            "/readyz": "",
            "/startupz": "",
            "/who": f"{os.environ['PENSTOCK_DATA_USERNAME']}",
        }
        if self.path == "/config":
            self._answer(200, Path(os.environ["PENSTOCK_DATA_CONFIG"]).read_text())
        elif self.path in paths:
            self._answer(200, paths[self.path])
        else:
            self._answer(404, "")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


class Server(socketserver.ThreadingTCPServer):
    """Not http.server's own, which asks the DNS for its name before it starts."""

    allow_reuse_address = True
    daemon_threads = True


signal.signal(signal.SIGTERM, lambda *_: sys.exit())
with Server(("", 8080), Answers) as server:
    server.serve_forever()
