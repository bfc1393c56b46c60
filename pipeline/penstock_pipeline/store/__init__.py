"""The store: what is durably known, and news of it.

Life cycle: `open` (migrates), then any number of

- `write(function, …)`  the function runs in a transaction; when `write` returns, it is on the disk.
- `read(function, …)`   the function runs on a snapshot.
- `changes.watch(…)`    a wake-up call after each commit that touched a run.

and `close`. The functions are those of `queue`, `history` and `registry`: plain functions whose first
argument is a SQLAlchemy connection, and which touch nothing else. They run in the store's own threads, or
under `run_sync` of an asynchronous database later. What stages print is kept in files by `logs`; `follow`
brings both together for those who watch a run.
"""

from .changes import EVERYTHING, Changes
from .sqlite import SqliteStore

__all__ = ["EVERYTHING", "Changes", "SqliteStore"]
