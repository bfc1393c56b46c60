"""What a server remembers of a session, and what it tells a client that tracks it."""

from __future__ import annotations

from penstock_pool.testing import packets
from penstock_pool.testing.packets import Status

_TRACKED = {
    "session_track_schema": "ON",
    "session_track_state_change": "OFF",
    "session_track_system_variables": "autocommit,character_set_client,character_set_connection,"
    "character_set_results,time_zone",
    "session_track_transaction_info": "OFF",
}
"""MariaDB's defaults for what is told."""


class State:
    """Database, variables and transaction of one session."""

    def __init__(self, database: str = "") -> None:
        self.database = database
        self.reset()

    def reset(self) -> None:
        """As COM_RESET_CONNECTION does: all but the database, and what is tracked is forgotten, too."""
        self.variables: dict[str, str] = dict(_TRACKED)
        """Set by this session; those of the user begin with an @."""
        self.autocommit = True
        self.in_transaction = False
        self._told_transaction = False
        self._touched = False
        self._named: list[bytes] = []

    @property
    def status(self) -> Status:
        status = Status.AUTOCOMMIT if self.autocommit else Status(0)
        return status | Status.IN_TRANSACTION if self.in_transaction else status

    def set(self, name: str, value: str) -> None:
        if name == "autocommit":
            self.autocommit = _is_on(value)
            self.in_transaction = self.in_transaction and not self.autocommit
            value = "ON" if self.autocommit else "OFF"
        self.variables[name] = value
        if not name.startswith("@") and self._tracks(name):
            self._named.append(packets.changed_variable(name, value))
        self.touch()

    def use(self, database: str) -> None:
        self.database = database
        if _is_on(self.variables["session_track_schema"]):
            self._named.append(packets.changed_database(database))
        self.touch()

    def touch(self) -> None:
        """Something changed that has no name here."""
        self._touched = True

    def worked(self) -> None:
        """A statement ran: without autocommit that begins a transaction."""
        self.in_transaction = self.in_transaction or not self.autocommit

    def changes(self) -> bytes:
        """What is to be told since the last time."""
        told = b"".join(self._named)
        if self._touched and _is_on(self.variables["session_track_state_change"]):
            told += packets.changed_state()
        if self.in_transaction != self._told_transaction and self._tells_transactions:
            told += packets.changed_transaction(open=self.in_transaction)
        self._told_transaction = self.in_transaction
        self._named, self._touched = [], False
        return told

    @property
    def _tells_transactions(self) -> bool:
        return self.variables["session_track_transaction_info"].upper() != "OFF"

    def _tracks(self, name: str) -> bool:
        tracked = self.variables["session_track_system_variables"].split(",")
        return "*" in tracked or name in tracked


def _is_on(value: str) -> bool:
    return value.upper() in ("1", "ON", "TRUE")
