"""Packets of one connection, in order, and what is to happen to them."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable

from penstock_pool.testing import packets
from penstock_pool.testing.answers import Cut, Delay, Fault, Mute, Packet, ServerError
from penstock_pool.testing.channel import Channel, How


class Over(Exception):
    """The connection is to end."""

    def __init__(self, how: How = "fin") -> None:
        self.how: How = how


class Instead(Exception):
    """An error goes out in place of the rest of an answer."""

    def __init__(self, error: ServerError) -> None:
        self.error = error


class Wire:
    """Numbers packets and keeps them until `flush`, so that an answer goes out in one piece."""

    def __init__(self, sock: socket.socket, faults: Callable[[Packet], Iterable[Fault]]) -> None:
        self._channel = Channel(sock)
        self._faults = faults
        self._sequence = 0
        self._unsent = b""

    @property
    def encrypted(self) -> bool:
        return self._channel.encrypted

    async def receive(self) -> bytes:
        """The payload of the client's next packet, whose number the answer goes on from."""
        payload = b""
        while True:
            header = await self._channel.read(4)
            size = int.from_bytes(header[:3], "little")
            payload += await self._channel.read(size)
            self._sequence = header[3] + 1
            if size < packets.LONGEST:
                return payload

    async def send(self, name: Packet, *payloads: bytes) -> None:
        """Has packets go out together at the next flush; before that, happen to them what is to happen."""
        framed = self._framed(payloads)
        for fault in self._faults(name):
            await self.flush()
            await self._suffer(fault, b"".join(framed))
        self._note(framed)

    def send_safely(self, payload: bytes) -> None:
        """The same, whatever was to happen to it."""
        self._note(self._framed([payload]))

    async def flush(self) -> None:
        data, self._unsent = self._unsent, b""
        if data:
            await self._channel.write(data)

    async def encrypt(self, context: ssl.SSLContext) -> None:
        await self.send("tls")
        await self._channel.encrypt(context)

    def say_unasked(self, payload: bytes) -> None:
        self._channel.say(b"".join(packets.framed(payload, 0)))

    def close(self, how: How) -> None:
        self._channel.close(how)

    async def _suffer(self, fault: Fault, data: bytes) -> None:
        match fault:
            case Delay():
                await asyncio.sleep(fault.seconds)
            case Mute():
                await self._channel.swallow()
                raise Over
            case Cut() if fault.after <= len(data):
                await self._channel.write(data[: fault.after])
                raise Over(fault.how)
            case ServerError():
                raise Instead(fault)

    def _framed(self, payloads: Iterable[bytes]) -> list[bytes]:
        """The packets that come next."""
        framed: list[bytes] = []
        for payload in payloads:
            framed += packets.framed(payload, self._sequence + len(framed))
        return framed

    def _note(self, framed: list[bytes]) -> None:
        self._sequence += len(framed)
        self._unsent += b"".join(framed)
