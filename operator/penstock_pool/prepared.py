"""Statements that the server parses once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock_pool.driver import Prepared, Result, Session
from penstock_pool.errors import Misuse, NotBorrowed
from penstock_pool.statements import effect_of

if TYPE_CHECKING:
    from penstock_pool.connection import Connection


class PreparedStatement:
    """Made by `Connection.prepare`; belongs to that loan."""

    def __init__(self, connection: Connection, session: Session, sql: str, prepared: Prepared) -> None:
        self._connection, self._session, self._loan = connection, session, session.uses
        self._sql, self._prepared = sql, prepared

    async def execute(self, *arguments: object) -> Result:
        """One argument for each `?`. Raises like `Connection.execute`, `Misuse` for another number of
        arguments, and `NotBorrowed` when the connection was returned or exchanged since."""
        session, pool = self._session, self._connection._pool
        if self._connection._held() is not session or session.uses != self._loan:
            raise NotBorrowed("a prepared statement ends with the loan of its connection: prepare it again")
        if len(arguments) != self._prepared.parameters:
            raise Misuse(
                f"the statement has {self._prepared.parameters} ?, not {len(arguments)}: {self._sql}"
            )
        session.asked_at = pool._clock()
        try:
            result = await self._prepared.execute(arguments)
        except BaseException as error:
            self._connection._untouched = False
            pool._watch.failed(session, self._sql, error)
            self._connection._failed(session, effect_of(self._sql), error)
            raise
        self._connection._untouched = False
        if pool._clock() - session.asked_at >= pool._watch.least:
            await pool._watch.answered(session, self._sql, None, result)
        return result

    async def fetch(self, *arguments: object) -> tuple[tuple[Any, ...], ...]:
        """All rows. Raises like `execute`."""
        return (await self.execute(*arguments)).rows or ()
