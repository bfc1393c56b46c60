"""Schema migrations by Alembic, shipped with the package.

Alembic is imported only when there is something to do: it costs about 10 MB, which an idle engine
need not hold.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, inspect, text

HEAD = "0001"
"""The newest revision; a test compares it with the files in `versions`."""


def upgrade(engine: Engine) -> None:
    """Brings the database to `HEAD`. A database already there costs one SELECT."""
    if _current(engine) == HEAD:
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, HEAD)


def _current(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
