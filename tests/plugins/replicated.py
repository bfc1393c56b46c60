"""Two MariaDBs, one of which follows the other by GTIDs.

with Replicated() as pair:
    pair.primary.admin("INSERT …")
    pair.wait_caught_up()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from plugins.mariadb import MariaDB, missing_is_told

WITHIN = 20

_FOLLOWS = """
CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='follower',
  MASTER_PASSWORD='follower', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1;
START SLAVE;
"""


class Replicated:
    """A primary, and a replica that only replication and root write to. Use as a context manager."""

    def __init__(self, **options: object) -> None:
        """`options` of both servers."""
        both = {
            "log_bin": "log",
            "log_bin_trust_function_creators": "ON",
            "gtid_strict_mode": "ON",
            **options,
        }
        self.primary = MariaDB(server_id=1, **both)
        self.replica = MariaDB(server_id=2, log_slave_updates="ON", read_only="ON", **both)

    def __enter__(self) -> Replicated:
        self._started = ExitStack()
        with self._started:
            self._started.enter_context(self.primary)
            self._started.enter_context(self.replica)
            self.primary.admin("CREATE USER follower@'%' IDENTIFIED BY 'follower'")
            self.primary.admin("GRANT REPLICATION SLAVE ON *.* TO follower@'%'")
            self.replica.admin(_FOLLOWS.format(port=self.primary.port))
            self.wait_caught_up()
            self._started = self._started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._started.close()

    def wait_caught_up(self) -> None:
        """Until the replica has all that the primary has committed."""
        ((position,),) = self.primary.admin("SELECT @@gtid_binlog_pos")
        answer = self.replica.admin(f"SELECT MASTER_GTID_WAIT('{position}', {WITHIN})")
        assert answer == [["0"]], self.replica.admin("SHOW ALL SLAVES STATUS")

    def stop_replication(self) -> None:
        """From now on the replica stays as it is."""
        self.replica.admin("STOP SLAVE")

    def start_replication(self) -> None:
        """The replica goes on where it stood."""
        self.replica.admin("START SLAVE")

    def promote(self) -> None:
        """The replica follows nobody any more and may be written to, as after a failover."""
        self.replica.admin("STOP SLAVE; RESET SLAVE ALL")
        self.read_only(self.replica, on=False)

    def read_only(self, server: MariaDB, *, on: bool) -> None:
        """Whether users may write to a server; connections stay as they are."""
        server.admin(f"SET GLOBAL read_only = {int(on)}")


@pytest.fixture(scope="module")
def replicated() -> Iterator[Replicated]:
    """Two servers that the tests of a module share; who promotes one, or ends one, takes own ones."""
    missing_is_told()
    with Replicated() as pair:
        yield pair


@pytest.fixture
def own_replicated() -> Iterator[Replicated]:
    """Two servers of the test's own."""
    missing_is_told()
    with Replicated() as pair:
        yield pair
