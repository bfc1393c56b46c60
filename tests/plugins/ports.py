"""Ports for servers that are told their port before they have it."""

from __future__ import annotations

import os
import socket
from itertools import count

FIRST, LAST = 18_000, 32_000
"""Below what systems give to outgoing connections (Linux: from 32768 on): none of those is in the way."""

AT_ONCE = 7
"""Processes that may share the tests; each has every seventh port for itself."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_numbers = count(os.getpid() * 97 * AT_ONCE + _worker, AT_ONCE)


def free_port() -> int:
    """A port of the loopback address that nothing listens on, and that this process was not given before.
    Binding to port 0 and closing it can give the same one twice: of four, two were equal once in a few
    thousand times."""
    for number in _numbers:
        port = FIRST + number % (LAST - FIRST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("unreachable: the numbers do not end")
