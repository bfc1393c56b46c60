"""Whether a client is let in."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from penstock_pool.testing import packets, passwords
from penstock_pool.testing.answers import ServerError
from penstock_pool.testing.packets import Hello
from penstock_pool.testing.wire import Instead, Wire

if TYPE_CHECKING:
    from penstock_pool.testing.session import Session


class Entrance:
    """A client that has said who it is, and shows that it knows the password."""

    def __init__(self, session: Session, wire: Wire, hello: Hello, salt: bytes) -> None:
        self._session = session
        self._server = session.server
        self._wire = wire
        self._hello = hello
        self._salt = salt
        self._password = self._known_password()

    async def check(self) -> None:
        """Raises `Instead` with the error for who is not let in."""
        proof = self._hello.proof
        if self._hello.plugin != self._server.auth:
            proof = await self._ask(packets.auth_switch(self._server.auth, self._salt))
        if not await self._is_proven(proof):
            using = "YES" if proof or self._session.password_seen else "NO"
            who = f"'{self._hello.user}'@'127.0.0.1'"
            raise Instead(
                ServerError(1045, "28000", f"Access denied for user {who} (using password: {using})")
            )

    def _known_password(self) -> str | None:
        """None if any will do; one that nobody knows for a user who does not exist."""
        users = self._server.users
        return None if users is None else users.get(self._hello.user, secrets.token_hex())

    async def _is_proven(self, proof: bytes) -> bool:
        if self._server.auth == passwords.CLEAR:
            return self._is_said(proof)
        if self._server.auth == passwords.CACHING_SHA2:
            return await self._is_proven_by_sha2(proof)
        return self._password is None or proof == passwords.native(self._password, self._salt)

    async def _is_proven_by_sha2(self, proof: bytes) -> bool:
        """A server that remembers the password can tell from the proof; else it asks for the password."""
        if not proof:
            return not self._password
        if self._server.remembers and self._matches(proof):
            await self._wire.send("auth", packets.auth_more(b"\x03"))
            return True
        said = await self._ask(packets.auth_more(b"\x04"))
        if self._wire.encrypted:
            return self._is_said(said)
        self._session.key_asked = said == b"\x02"
        await self._ask(packets.auth_more(passwords.PUBLIC_KEY))
        return self._password is None  # what was said cannot be read without the private key

    def _matches(self, proof: bytes) -> bool:
        return self._password is None or proof == passwords.caching_sha2(self._password, self._salt)

    def _is_said(self, said: bytes) -> bool:
        self._session.password_seen = said.rstrip(b"\0")
        return self._password is None or self._session.password_seen == self._password.encode()

    async def _ask(self, payload: bytes) -> bytes:
        await self._wire.send("auth", payload)
        await self._wire.flush()
        return await self._wire.receive()
