"""`penstock doctor` tells what is well, what is not and what helps, whether or not anything runs."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from plugins.penstock import Penstock, static


def doctor(state: Path, *, cwd: Path | None = None, **environment: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was found by name: of several the worst."""
    done = subprocess.run(
        [sys.executable, "-m", "penstock_pipeline", "doctor", "--json", "--state", str(state)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=cwd,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    order = ("ok", "warning", "problem")
    found = sorted(json.loads(done.stdout), key=lambda one: order.index(one["level"]))
    assert all(one["do"] for one in found if one["level"] != "ok")
    return done.returncode, {one["what"]: one for one in found}


def levels(found: dict[str, Any]) -> dict[str, str]:
    return {what: one["level"] for what, one in found.items()}


@pytest.fixture(scope="module")
def shop(shared_penstock: Penstock) -> Penstock:
    """A Penstock with a live app that has a secret."""
    repository = shared_penstock.add("shop")
    repository.commit(static("one"))
    assert repository.push().code == 0
    variables = {"KEY": {"value": "hunter2hunter2", "secret": True}}
    run = shared_penstock.api("/apps/shop/variables", {"variables": variables})["run"]
    assert shared_penstock.finished(run["id"])["run"]["status"] == "succeeded"
    return shared_penstock


def execute(penstock: Penstock, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(penstock.state / "penstock.db", timeout=10)) as database, database:
        database.execute(statement, values)


def test_a_penstock_that_is_well_has_no_problem(shop: Penstock) -> None:
    code, found = doctor(shop.state)
    assert code == 0
    assert {"git", "disk", "database", "key", "engine", "router", "edge-1", "edge-2", "runs"} <= found.keys()
    assert found["edges"]["says"] == "serve what is live of 1 app"
    assert found["key"]["says"] == "opens the secrets of 1 app"
    lines = shop.run("doctor").stdout.splitlines()
    assert next(line for line in lines if "database" in line).startswith("ok       database    whole")


def test_a_folder_that_is_not_there_is_no_problem_yet(tmp_path: Path) -> None:
    code, found = doctor(tmp_path / "none")
    assert (code, levels(found)["state"], levels(found)["engine"]) == (0, "warning", "warning")
    assert not (tmp_path / "none").exists()


def test_a_key_that_is_gone_or_open_to_all_is_a_problem(shop: Penstock) -> None:
    key = shop.state / "secrets.key"
    key.chmod(0o644)
    code, found = doctor(shop.state)
    assert (code, levels(found)["key"]) == (3, "problem")
    assert found["key"]["do"] == "chmod 600 it"
    key.chmod(0o600)
    key.rename(shop.state / "elsewhere")
    try:
        code, found = doctor(shop.state)
    finally:
        (shop.state / "elsewhere").rename(key)
    assert (code, "is gone" in found["key"]["says"]) == (3, True)


def test_an_edge_that_owes_a_refresh_is_told_with_the_way_to_it(shop: Penstock) -> None:
    execute(shop, "INSERT INTO debts (app_id, edge, paths) SELECT id, 'edge-1', '[]' FROM apps")
    code, found = doctor(shop.state)
    execute(shop, "DELETE FROM debts")
    assert (code, found["edges"]["do"]) == (3, "penstock refresh shop")


def test_a_run_that_is_silent_for_long_is_a_warning(shop: Penstock) -> None:
    execute(shop, "UPDATE runs SET status = 'running' WHERE id = 1")
    execute(shop, "UPDATE events SET at = at - 10000 WHERE run_id = 1")
    code, found = doctor(shop.state)
    execute(shop, "UPDATE runs SET status = 'succeeded' WHERE id = 1")
    assert (code, found["runs"]["level"]) == (0, "warning")
    assert "run 1 of shop has said nothing for 3 h" in found["runs"]["says"]


def test_a_clock_that_was_set_back_is_a_warning(shop: Penstock) -> None:
    ahead = (shop.state / "penstock.db").stat().st_mtime + 7200
    os.utime(shop.state / "penstock.db", (ahead, ahead))
    _, found = doctor(shop.state)
    os.utime(shop.state / "penstock.db")
    assert (found["clock"]["level"], "was set back" in found["clock"]["says"]) == ("warning", True)


def test_a_folder_that_others_can_look_into_is_a_warning(shop: Penstock) -> None:
    shop.state.chmod(0o755)
    _, found = doctor(shop.state)
    shop.state.chmod(0o700)
    assert (found["state"]["level"], "chmod 700" in found["state"]["do"]) == ("warning", True)


def test_a_port_that_another_program_holds_is_a_problem(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, found = doctor(tmp_path / "none", PENSTOCK_PORT=str(port))
    assert (code, found["ports"]["says"]) == (3, f"{port} is taken by another program")


def test_without_git_or_with_an_old_one_pushes_do_not_work(tmp_path: Path) -> None:
    code, found = doctor(tmp_path / "none", PATH=str(tmp_path))
    assert (code, found["git"]["level"]) == (3, "problem")
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.17.1\n")
    (tmp_path / "git").chmod(0o700)
    _, found = doctor(tmp_path / "none", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (found["git"]["level"], "2.29 or newer" in found["git"]["do"]) == ("problem", True)


def test_what_waits_in_the_spool_of_a_hook_is_told_there(tmp_path: Path) -> None:
    spool = tmp_path / "penstock-spool"
    spool.mkdir()
    (spool / f"{1:020}-{'a' * 32}.json").write_text("{}")
    _, found = doctor(tmp_path / "none", cwd=tmp_path)
    assert (found["hook"]["level"], found["hook"]["do"]) == ("warning", "penstock hook --flush")


def test_what_cannot_be_read_is_a_problem_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "front" / "front.json").mkdir(parents=True)
    (tmp_path / "penstock.db").touch()
    code, found = doctor(tmp_path)
    assert (code, found["front"]["level"]) == (3, "problem")
    assert found["front"]["says"] == f"{tmp_path}/front/front.json: Is a directory"
    assert found["runs"]["level"] == "ok"


def test_an_engine_that_is_down_and_a_database_that_is_damaged_are_told(penstock: Penstock) -> None:
    penstock.stop()
    code, found = doctor(penstock.state)
    assert (code, found["engine"]["do"], found["router"]["level"]) == (3, "penstock up", "ok")
    penstock.run("down")
    assert doctor(penstock.state)[1]["front"]["says"] == "nothing serves visitors"
    file = penstock.state / "penstock.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:4096] + b"\xff" * 8192 + whole[12288:])
    assert doctor(penstock.state)[1]["database"]["level"] == "problem"
    file.write_bytes(b"no database")
    assert doctor(penstock.state)[1]["database"]["level"] == "problem"
    file.write_bytes(whole)


def test_an_app_that_keeps_ending_is_a_problem_and_its_log_is_named(penstock: Penstock) -> None:
    repository = penstock.add("brief")
    config = "web: timeout 0.5 python3 -m http.server --bind 127.0.0.1 $PORT\n"
    repository.commit({"penstock.yaml": config, "index.html": "one"})
    assert repository.push().code == 0
    found = eventually_red(penstock)
    assert found["says"].startswith("web of brief is down, after ")
    log, _, _ = found["do"].removeprefix("what it said: ").partition(";")
    assert "web ended" in Path(log).read_text()
    assert "penstock rollback brief" in found["do"]


def eventually_red(penstock: Penstock) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while True:
        _, found = doctor(penstock.state)
        if found.get("processes", {}).get("level") == "problem":
            return dict(found["processes"])
        assert time.monotonic() < deadline
