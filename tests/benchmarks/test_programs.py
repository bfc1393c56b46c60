"""Each benchmark runs to its end and prints what it promises; the figures are nobody's business here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

HERE = Path(__file__).parent

MACHINE = {"cores", "memory_gb", "python", "kernel", "git", "fsync_p50_ms"}


@pytest.mark.parametrize(
    ("program", "names", "peers"),
    [
        ("switch", {"requests", "versions", "failed_requests", "p50_ms", "p99_ms"}, set()),
        (
            "outlive",
            {"requests", "kills", "upgrades", "versions_live", "failed_requests", "p99_ms"},
            set(),
        ),
        (
            "history",
            {
                f"{beside}_{question}_p50_ms"
                for beside in ("long_history", "many_apps")
                for question in ["run", "apps", "status", "runs", "show", "follow", "releases", "restart"]
            },
            set(),
        ),
        (
            "pipeline",
            {
                "hook_accept_p50_ms",
                "hook_accept_p99_ms",
                "hook_accept_rate",
                "hook_accept_errors",
                "noop_run_overhead_p50_ms",
                "noop_runs_per_s",
                "push_to_live_s",
                "app_start_s",
                "rollback_s",
                "idle_pss_mb",
                "idle_pss_engine_mb",
                "idle_pss_front_mb",
                "idle_pss_router_mb",
                "idle_pss_edges_mb",
            },
            {
                "hook_accept_p50_ms",
                "hook_accept_p99_ms",
                "hook_accept_rate",
                "hook_accept_errors",
                "noop_run_overhead_p50_ms",
                "noop_runs_per_s",
                "push_to_live_s",
                "idle_pss_mb",
            },
        ),
    ],
)
def test_a_benchmark_prints_its_results_as_json(program: str, names: set[str], peers: set[str]) -> None:
    command = [sys.executable, str(HERE / f"{program}.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["benchmark"] == program
    assert set(printed["machine"]) == MACHINE
    assert {result["name"] for result in printed["results"]} == names
    compared = {result["name"]: set(result["peers"]) for result in printed["results"] if result["peers"]}
    assert compared == {name: {"buildbot", "script"} for name in peers}
    well_formed(printed)
    values = {result["name"]: result["value"] for result in printed["results"]}
    assert values.get("failed_requests", 0) == 0
    assert values.get("versions_live", 1) > 0
    assert values.get("versions", 2) > 1


@pytest.mark.parametrize("failed", [0, 1])
@pytest.mark.parametrize(("program", "news"), [("switch", "versions"), ("outlive", "versions_live")])
@pytest.mark.parametrize("seen", [0, 2])
def test_a_broken_promise_is_told_and_ends_with_1(program: str, news: str, failed: int, seen: int) -> None:
    told = (
        f"import {program}, harness; one = lambda name, value: harness.Result(name, value, '')\n"
        f"results = [one('failed_requests', {failed}), one('{news}', {seen})]\n"
        f"harness.present('{program}', lambda quick: results, broken={program}.broken)"
    )
    command = [sys.executable, "-c", told, "--json"]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["benchmark"] == program
    assert done.returncode == (failed > 0 or seen == 0), done.stderr
    assert bool(done.stderr) is bool(done.returncode)


def well_formed(printed: dict[str, Any]) -> None:
    for result in printed["results"]:
        assert set(result) == {"name", "value", "unit", "better", "floor", "peers"}
        assert isinstance(result["value"], int | float)
        assert result["better"] in ("lower", "higher")


POOLS = {"asyncmy", "aiomysql", "sqlalchemy", "psycopg_pool"}


@pytest.mark.usefixtures("own_mariadb")
def test_the_pool_is_measured_beside_others_and_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "pool.svg"
    command = [sys.executable, str(HERE / "pool.py"), "--quick", "--json", "--plot", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    found = {result["name"]: result for result in printed["results"]}
    assert found.keys() >= {
        "idle_checkout_ns",
        "contended_qps",
        "queries_per_task_max_min",
        "wait_p99_vs_ideal",
        "kill_all_user_errors",
        "fill_20_ms",
        "idle_wait_during_fill_ms",
        "resize_errors",
        "outage_connect_attempts",
        "recovery_s",
    }
    assert all(set(result["peers"] or POOLS) == POOLS for result in found.values())
    assert found["kill_all_user_errors"]["value"] == found["resize_errors"]["value"] == 0
    well_formed(printed)
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


CHECKED = """
import sys, pathlib, subprocess, by_buildbot, repositories
if (programs := by_buildbot.kept()) is None:
    sys.exit("not installed")
here = pathlib.Path(sys.argv[1])
by_buildbot.create(programs, here / "master", 1, [repositories.Upstream("shop", here, 1)])
sys.exit(subprocess.run([programs / "buildbot", "checkconfig", str(here / "master")]).returncode)
"""


def test_the_peer_buildbot_understands_its_configuration(tmp_path: Path) -> None:
    """Costs a few seconds where a benchmark has installed it; to do so here would cost half a minute more."""
    done = subprocess.run(
        [sys.executable, "-c", CHECKED, str(tmp_path)], cwd=HERE, capture_output=True, text=True, timeout=120
    )
    if done.stderr == "not installed\n":
        pytest.skip("Buildbot is not installed: make bench does that, and checks its configuration by use")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Config file is good!" in done.stdout


SERVICES = {"fastapi_asyncmy", "fastapi_sqlalchemy", "fastapi_constant"}


@pytest.mark.usefixtures("own_mariadb")
def test_the_data_service_is_measured_beside_what_one_writes_oneself() -> None:
    command = [sys.executable, str(HERE / "data_service.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    found = {result["name"]: result for result in printed["results"]}
    shown = {"rps_per_core", "rps", "p50_ms", "p99_ms", "stream_rows_per_s", "stream_rows_per_core"}
    assert found.keys() >= {*shown, "rps_rs256", "rss_mb_streaming_1gb", "rss_mb_reader_stopped"}
    assert found.keys() >= {f"rps_per_core_vs_{name}" for name in (*SERVICES, "floor")}
    assert all(set(result["peers"] or SERVICES) == SERVICES for result in found.values())
    well_formed(printed)


def test_a_peer_that_cannot_be_installed_is_left_out_and_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be made")
    done = subprocess.run(
        [sys.executable, "-c", "import by_buildbot; print(by_buildbot.installed())"],
        cwd=HERE,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "None\n", done.stderr
    assert "left out, it cannot be installed: " in done.stderr.splitlines()[-1]
