"""The log of slow statements: one warning each, on the logger `penstock_pool.slow`, without any value."""

from __future__ import annotations

import logging
import re
from math import inf
from typing import Any

from penstock_pool.driver import Arguments, Result, Session
from penstock_pool.settings import PoolSettings
from penstock_pool.statements import digest, normalized

logger = logging.getLogger("penstock_pool.slow")

EXPLAIN = "/*M! SET STATEMENT max_statement_time=0.5 FOR */ EXPLAIN "
"""MariaDB may take that many seconds for it. MySQL takes what is in `/*M! */` for a comment, and its EXPLAIN
executes nothing that could take long."""
_EXPLAINED = re.compile(r"[\s(]*(?:select|insert|update|delete|replace|with)\b", re.IGNORECASE)


class SlowLog:
    """Each record has, for handlers that keep structure, the attributes `pool`, `digest`, `statement`
    (normalized), `seconds`, `rows`, `session`, `error` (the class of what was raised) and `plan` (rows of the
    EXPLAIN as dictionaries); what is not known is None."""

    def __init__(self, settings: PoolSettings) -> None:
        self.seconds = inf if settings.slow_query is None else settings.slow_query
        self._pool, self._explains = settings.name, settings.slow_explain

    async def answered(
        self, session: Session, sql: str, arguments: Arguments, result: Result, seconds: float
    ) -> None:
        """With the plan, if that is asked for and the statement has one."""
        plan = None
        if self._explains and _EXPLAINED.match(sql) and not session.running:
            plan = await _plan(session, sql, arguments)
        self._log(session, sql, seconds, rows=result.affected_rows, plan=plan)

    def failed(self, session: Session, sql: str, error: BaseException, seconds: float) -> None:
        self._log(session, sql, seconds, error=type(error).__name__)

    def _log(
        self,
        session: Session,
        sql: str,
        seconds: float,
        *,
        rows: int | None = None,
        plan: list[dict[str, Any]] | None = None,
        error: str | None = None,
    ) -> None:
        text, known = normalized(sql), digest(sql)
        logger.warning(
            "pool %s: %.3f s, %s, digest %s: %s",
            self._pool,
            seconds,
            error or f"{rows} rows",
            known,
            text,
            extra={
                "pool": self._pool,
                "digest": known,
                "statement": text,
                "seconds": seconds,
                "rows": rows,
                "session": session.id,
                "error": error,
                "plan": plan,
            },
        )


async def _plan(session: Session, sql: str, arguments: Arguments) -> list[dict[str, Any]] | None:
    """On the session that was slow: its temporary tables, its database, its view of the data. In a
    transaction it takes no lock that the statement does not hold already; and a server that hangs would hold
    up the borrower's next statement as well."""
    changed, session.attention = session.changed, True
    try:
        result = await session.query(EXPLAIN + sql, arguments)
    except Exception as error:  # noqa: BLE001 - the statement itself has succeeded
        logger.info("no plan: %s", type(error).__name__)
        return None
    finally:
        session.changed = changed
    names = [column[0] for column in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.rows or ()]
