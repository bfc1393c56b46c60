"""A history as long as years make it, written in one go in the shape that the pipeline gives it."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, insert, text

from penstock_pipeline.model import RunStatus, StageName
from penstock_pipeline.store import schema

STAGES = [name for name in StageName if name is not StageName.APPROVE]
EVENTS = [
    ("accepted", None),
    *((kind, stage) for stage in STAGES for kind in ("stage.started", "stage.done")),
    ("run.succeeded", None),
]


def write(tx: Connection, *, apps: int, runs: int, live: bool = True) -> None:
    """Apps `app-0`, `app-1` …, and green runs of theirs in turn, each with its push, its webhook delivery and
    its release; the newest is `live`, though no engine could start it."""
    now = datetime.now(UTC)
    told = [{"name": f"app-{n}", "branch": "main", "port": 30000 + n, "pinned": False} for n in range(apps)]
    tx.execute(insert(schema.apps), [{**one, "created_at": now} for one in told])
    for first in range(1, runs + 1, 1000):
        _write_runs(tx, range(first, min(first + 1000, runs + 1)), apps, now)
    if live:
        newest = "(SELECT max(id) FROM {} WHERE app_id = apps.id)"
        now_live = f"live_release = {newest.format('releases')}, live_run = {newest.format('runs')}"
        tx.execute(text(f"UPDATE apps SET {now_live}"))


def _write_runs(tx: Connection, ids: range, apps: int, now: datetime) -> None:
    ours = [{"id": n, "app_id": (n - 1) % apps + 1, "commit": f"{n:040x}", "source": "github"} for n in ids]
    pushed = {"ref": "refs/heads/main", "pusher": "ann", "received_at": now}
    ran = {"kind": "push", "status": RunStatus.SUCCEEDED, "actor": "ann", "trace_id": "0" * 32}
    ran |= {"created_at": now, "started_at": now, "ended_at": now}
    released = {"image": "sha256:9ad1", "manifest": None, "config": {}, "created_at": now}
    staged = {
        "status": "done",
        "attempt": 1,
        "started_at": now,
        "ended_at": now,
        "says": "done",
        "result": {},
    }
    tx.execute(insert(schema.pushes), [one | pushed for one in ours])
    tx.execute(
        insert(schema.runs), [one | ran | {"push_id": one["id"], "release": one["id"]} for one in ours]
    )
    for one in ours:
        del one["source"]
    tx.execute(
        insert(schema.releases),
        [one | released | {"run_id": one["id"], "version": (int(one["id"]) - 1) // apps + 1} for one in ours],
    )
    tx.execute(
        insert(schema.deliveries),
        [
            {
                "app_id": one["app_id"],
                "source": "github",
                "delivery_id": str(one["id"]),
                "body_sha256": "0" * 64,
                "push_id": one["id"],
                "received_at": now,
            }
            for one in ours
        ],
    )
    tx.execute(
        insert(schema.stages),
        [staged | {"run_id": one["id"], "stage": name} for one in ours for name in STAGES],
    )
    said = {"at": now, "data": {"says": "done", "seconds": 0.5}}
    tx.execute(
        insert(schema.events),
        [
            said | {"run_id": one["id"], "app_id": one["app_id"], "kind": kind, "stage": stage}
            for one in ours
            for kind, stage in EVENTS
        ],
    )
