"""Schema migrations by Alembic, shipped with the package.

Alembic is imported only when there is something to do: it costs about 10 MB, which an idle engine
need not hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from ...errors import StoreUnavailable
from ...vault import Vault
from ..schema import metadata

HEAD = "0003"
"""The newest revision; a test compares it with the files in `versions`."""


def upgrade(engine: Engine, vault: Vault | None = None) -> None:
    """Brings the database to `HEAD`. A new one is made whole, one that is up to date costs a SELECT. Raises
    `StoreUnavailable` for one that a newer version has changed. `vault` seals what older versions kept in
    plain text; where nothing was, it may be left out."""
    current = _current(engine)
    if current is not None and current > HEAD:
        raise StoreUnavailable(
            f"{engine.url.database} was written by a newer Penstock (its schema is {current}, this one knows "
            f"{HEAD}): run that version, or restore the state folder as it was before"
        )
    if current is None and is_empty(engine):
        _make(engine)
    elif current != HEAD:
        _migrate(engine, vault)


def is_empty(engine: Engine) -> bool:
    """Whether the database holds nothing at all, as a new one or one that was cut off."""
    return not inspect(engine).get_table_names()


def _make(engine: Engine) -> None:
    with _transaction(engine) as connection:
        metadata.create_all(connection)
        connection.exec_driver_sql(
            "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
        )
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES (?)", (HEAD,))


def _migrate(engine: Engine, vault: Vault | None) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with _transaction(engine) as connection:
        config.attributes |= {"connection": connection, "vault": vault}
        command.upgrade(config, HEAD)


@contextmanager
def _transaction(engine: Engine) -> Iterator[Connection]:
    """All that is done in it or nothing, tables included: the engine's own `begin` begins nothing, for it
    commits each statement. What is not committed is rolled back as the connection is closed."""
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.exec_driver_sql("COMMIT")


def _current(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
