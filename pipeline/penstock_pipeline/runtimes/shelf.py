"""Listening sockets that outlive the process which opened them.

A child opens them and puts each on its shelf; the parent holds them; the next child finds them there. Nobody
is refused in between: who connects waits for the next child. systemd's file descriptor store does the same.
"""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress

_MESSAGE = 16


class Shelf:
    """Made in the parent, before its child is forked."""

    def __init__(self) -> None:
        self.held: dict[int, socket.socket] = {}
        """By port: what a child finds when it starts."""
        self._parents, self._childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._parents.setblocking(False)

    # The child

    def put(self, port: int, listener: socket.socket) -> None:
        socket.send_fds(self._childs, [str(port).encode()], [listener.fileno()])

    def drop(self, port: int, listener: socket.socket) -> None:
        """Nobody can connect from now on; the parent lets go in a moment."""
        with suppress(OSError):  # not every system lets a listening socket be shut down
            listener.shutdown(socket.SHUT_RDWR)
        self._childs.send(str(port).encode())

    # The parent

    def signal(self) -> None:
        """From now on SIGIO tells this process, which must expect it, that there is something to collect."""
        fcntl.fcntl(self._parents, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._parents, fcntl.F_GETFL)
        fcntl.fcntl(self._parents, fcntl.F_SETFL, flags | os.O_ASYNC)

    def collect(self) -> None:
        """Take what the child has put or dropped; before another child is forked, in any case."""
        with suppress(BlockingIOError):
            while True:
                said, descriptors, _, _ = socket.recv_fds(self._parents, _MESSAGE, 1)
                if old := self.held.pop(int(said), None):
                    old.close()
                for descriptor in descriptors:
                    self.held[int(said)] = socket.socket(fileno=descriptor)

    # Both

    def close(self) -> None:
        for held in (self._parents, self._childs, *self.held.values()):
            held.close()
        self.held.clear()
