from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from plugins.house import eventually
from plugins.local_bench import SERVE, Bench, bench, candidate, route

from penstock_pipeline.errors import Conflict, RuntimeUnavailable, StageFailed, Unhealthy
from penstock_pipeline.runtimes import Candidate, ProcessState, local
from penstock_pipeline.runtimes.local import LocalRuntime
from penstock_pipeline.runtimes.records import Records
from penstock_pipeline.runtimes.routing import RouterClient, RouteTarget


@pytest.fixture
async def house(short_tmp: Path) -> AsyncIterator[Bench]:
    async with bench(short_tmp) as made:
        yield made


@contextlib.asynccontextmanager
async def supervised(engine: LocalRuntime) -> AsyncIterator[None]:
    task = asyncio.create_task(engine.supervise())
    try:
        yield
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def go_live(engine: LocalRuntime, one: Candidate) -> ProcessState:
    await engine.start(one)
    await engine.healthy(one)
    await engine.switch(route(one))
    return await state_of(engine, one.name)


async def state_of(engine: LocalRuntime, name: str, process: str = "web") -> ProcessState:
    [state] = [one for one in await engine.observe() if (one.candidate, one.process) == (name, process)]
    return state


async def get(state: ProcessState, path: str = "/") -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{state.port}{path}") as answer,
    ):
        return await answer.text()


async def execute(engine: LocalRuntime, command: str, tree: Path) -> str:
    chunks: list[bytes] = []
    code = await engine.execute(
        command, name="shop-1-test", tree=tree, env={"CI": "true"}, output=chunks.append, timeout=30
    )
    assert code == 0
    return b"".join(chunks).decode()


def log_of(house: Bench, name: str) -> str:
    return (house.settings.state / "runtime" / name / "web.log").read_text()


# One-off commands


async def test_a_command_sees_nothing_of_penstock_but_has_a_home_and_python(
    house: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_WEBHOOK_SECRET", "s3cret")
    said = await execute(house.engine(), "env; ls -d $HOME $TMPDIR; command -v python", tree=tmp_path)
    assert "s3cret" not in said
    names = {line.partition("=")[0] for line in said.splitlines() if "=" in line}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == {
        *("PATH", "HOME", "TMPDIR", "LANG", "TERM", "PYTHONUNBUFFERED", "CI", "PENSTOCK_INSTANCE"),
        *("PIP_TARGET", "PIP_NO_COMPILE", "PIP_DISABLE_PIP_VERSION_CHECK"),
        *("PYTHONDONTWRITEBYTECODE", "PYTHONPATH"),
    }
    assert said.splitlines()[-1] == str(Path(sys.executable).parent / "python")


async def test_python_packages_go_into_the_tree_and_can_be_used_at_once(house: Bench, tmp_path: Path) -> None:
    install = 'mkdir -p "$PIP_TARGET" && echo "word = 42" >"$PIP_TARGET/answer.py"'
    said = await execute(
        house.engine(), f"{install} && python -c 'import answer; print(answer.word)'", tree=tmp_path
    )
    assert said == "42\n"
    assert (tmp_path / ".penstock/python/answer.py").exists()


async def test_a_command_that_took_too_long_leaves_nothing_behind(house: Bench, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"ran longer than 0.2 s and was ended"):
        await house.engine().execute(
            "trap '' TERM; setsid sleep 600 & sleep 600; sleep 600",
            name="shop-1-test",
            tree=tmp_path,
            env={},
            output=lambda _: None,
            timeout=0.2,
        )
    assert house.processes() == []


async def test_what_a_killed_engine_was_executing_is_ended_before_it_is_tried_again(
    short_tmp: Path, tmp_path: Path
) -> None:
    async with bench(short_tmp, sandbox="none") as house:
        await killed_engine(house, EXECUTES)
        assert len(house.processes()) >= 1
        assert await execute(house.engine(), "echo again", tree=tmp_path) == "again\n"
        assert house.processes() == []


async def test_what_a_killed_engine_was_executing_is_ended_by_the_next(short_tmp: Path) -> None:
    async with bench(short_tmp, sandbox="none") as house:
        await killed_engine(house, EXECUTES)
        assert len(house.processes()) >= 1
        async with supervised(house.engine()):
            await eventually(lambda: not house.processes())


async def test_what_a_killed_engine_was_executing_is_stopped_with_everything(short_tmp: Path) -> None:
    async with bench(short_tmp, sandbox="none") as house:
        await killed_engine(house, EXECUTES)
        assert len(house.processes()) >= 1
        await house.engine().stop()
        assert house.processes() == []


EXECUTES = """await engine.execute(
        "echo here; sleep 600", name="shop-1-test", tree=Path("/"), env={}, output=die, timeout=60
    )"""
STARTS = "await engine.start(candidate()); die()"


async def killed_engine(house: Bench, begins: str) -> None:
    """An engine in a process of its own, which begins something and is killed by it."""
    script = f"""
import asyncio, os, signal
from pathlib import Path
from plugins.local_bench import Images, candidate
from penstock_pipeline.runtimes.local import LocalRuntime
from penstock_pipeline.settings import Settings
from penstock_pipeline.vault import Vault

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    state = Path({str(house.settings.state)!r})
    vault = Vault(state / "secrets.key")
    settings = Settings(state=state, sandbox={house.settings.sandbox!r})
    engine = LocalRuntime(settings, Images(), None, state / "origin", vault)
    {begins}

asyncio.run(main())
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script], env=env, check=False)
    assert ended.returncode == -signal.SIGKILL


# Start and health


async def test_a_process_gets_its_port_and_its_names_and_what_was_installed(house: Bench) -> None:
    engine = house.engine()
    packages = house.settings.state / "runtime/shop-1/root/.penstock/python/bin"
    packages.mkdir(parents=True)
    await engine.start(candidate(processes={"web": f"env; {SERVE}"}))
    await engine.healthy(candidate())
    state = await state_of(engine, "shop-1")
    said = log_of(house, "shop-1").splitlines()
    assert f"PORT={state.port}" in said
    assert {"PENSTOCK_APP=shop", "PENSTOCK_COMMIT=commit-of-shop-1", "PENSTOCK_PROCESS=web"} <= set(said)
    assert f"PYTHONPATH={packages.parent}" in said
    assert any(line.startswith(f"PATH={packages}:") for line in said)
    assert await get(state) == f"127.0.0.1:{state.port}"


async def test_without_a_path_an_accepting_port_is_healthy(house: Bench) -> None:
    engine = house.engine()
    one = candidate(mode="red", path=None)
    await engine.start(one)
    assert await engine.healthy(one) >= 1


async def test_a_web_that_never_listens_is_unhealthy(house: Bench) -> None:
    engine = house.engine()
    deaf = candidate(mode="deaf", within=0.5)
    await engine.start(deaf)
    with pytest.raises(Unhealthy, match=r"within 0.5 s: nothing accepts connections on its PORT") as raised:
        await engine.healthy(deaf)
    assert raised.value.tail == ("begins deaf",)


async def test_a_command_that_is_not_there_is_named(house: Bench) -> None:
    engine = house.engine()
    one = candidate(processes={"web": ("no-such-server",)})
    await engine.start(one)
    with pytest.raises(Unhealthy, match="web ended with exit code 127") as raised:
        await engine.healthy(one)
    assert "no-such-server: not found" in raised.value.tail[-1]


async def test_an_app_without_web_is_healthy_when_it_lives_for_a_moment(house: Bench) -> None:
    engine = house.engine()
    worker = candidate(processes={"worker": "sleep 600"})
    await engine.start(worker)
    assert await engine.healthy(worker) > 3
    await engine.switch(route(worker))
    assert house.router.puts == [("shop", None)]
    ending = candidate("done-1", processes={"worker": "sleep 0.3; exit 0"})
    await engine.start(ending)
    with pytest.raises(Unhealthy, match="worker ended with exit code 0 before"):
        await engine.healthy(ending)


async def test_a_full_disk_at_the_record_starts_nothing(
    house: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Records, "keep_started", full)
        with pytest.raises(RuntimeUnavailable, match="shop-1 cannot be started: no space left"):
            await house.engine().start(candidate())
    await eventually(lambda: not house.processes())
    assert (await go_live(house.engine(), candidate())).pid


# Engines come and go


async def test_a_new_engine_adopts_what_runs(house: Bench) -> None:
    before = await go_live(house.engine(), candidate())
    engine = house.engine()
    await engine.start(candidate())
    assert await engine.healthy(candidate()) == 1
    assert await state_of(engine, "shop-1") == before
    async with supervised(house.engine()):
        await eventually(lambda: len(house.router.puts) >= 1)
    assert await state_of(engine, "shop-1") == before
    assert len(house.servers()) == 1


async def test_what_a_killed_engine_has_started_goes_on_running(house: Bench) -> None:
    await killed_engine(house, STARTS)
    engine = house.engine()
    await engine.healthy(candidate())
    first = await state_of(engine, "shop-1")
    await engine.start(candidate())
    assert await state_of(engine, "shop-1") == first
    assert len(house.servers()) == 1


async def test_a_lost_route_is_put_back(house: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "ROUND", 0.05)
    engine = house.engine()
    state = await go_live(engine, candidate())
    async with supervised(engine):
        house.router.routes.clear()
        await eventually(lambda: "shop" in house.router.routes)
    assert house.router.routes["shop"] == {
        "host": "shop.localhost",
        "port": 7100,
        "release": "v1",
        "upstream": f"127.0.0.1:{state.port}",
        "origin": str(house.settings.state / "origin" / "shop"),
    }


async def test_routes_of_a_router_of_another_version_are_read_as_far_as_they_go(
    house: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ROUND", 0.05)
    engine = house.engine()
    await go_live(engine, candidate())
    known = await house.client.routes()
    house.router.routes["shop"]["priority"] = 7
    assert await house.client.routes() == known
    house.router.routes |= {"shop": {"host": "shop.localhost"}, "wiki": None}
    async with supervised(engine):
        await eventually(lambda: house.router.routes["shop"].get("port"))
    assert await house.client.routes() == known


async def test_a_switch_that_the_router_refuses_leaves_the_route_before(
    house: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ROUND", 0.05)
    engine = house.engine()
    live = await go_live(engine, candidate("shop-1"))
    await engine.start(candidate("shop-2"))
    house.router.refuses = True
    with pytest.raises(Conflict, match="the router refuses: port 7100 is taken"):
        await engine.switch(route(candidate("shop-2")))
    house.router.refuses = False
    house.router.routes.clear()
    async with supervised(house.engine()):
        await eventually(lambda: "shop" in house.router.routes)
    assert house.router.routes["shop"]["upstream"] == f"127.0.0.1:{live.port}"


# Supervision


async def test_a_killed_process_comes_back_on_its_port_and_its_route_stays(house: Bench) -> None:
    engine = house.engine()
    async with supervised(engine):
        before = await go_live(engine, candidate())
        assert before.pid
        os.kill(before.pid, signal.SIGKILL)
        after = await eventually(lambda: restarted(engine, before))
        assert (after.port, after.restarts) == (before.port, 1)
        await eventually(lambda: answers(after))
    assert len(set(house.router.puts)) == 1
    assert "penstock: web ended by signal 9 (Killed), restart 1 in 0.2 s" in log_of(house, "shop-1")


async def restarted(engine: LocalRuntime, before: ProcessState) -> ProcessState | None:
    now = await state_of(engine, before.candidate)
    return now if now.pid not in (None, before.pid) else None


async def answers(state: ProcessState) -> str:
    with contextlib.suppress(aiohttp.ClientError):
        return await get(state)
    return ""


async def test_a_process_whose_secrets_cannot_be_opened_waits_for_their_key(
    house: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    engine = house.engine()
    before = await go_live(engine, candidate())
    key, away = house.settings.state / "secrets.key", house.settings.state / "elsewhere"
    key.rename(away)
    assert before.pid is not None
    async with supervised(house.engine()):
        os.kill(before.pid, signal.SIGKILL)
        await eventually(lambda: "shop-1 cannot be kept running" in caplog.text)
        assert "secrets.key, the key of every secret, is gone" in caplog.text
        away.rename(key)
    async with supervised(house.engine()):
        await eventually(lambda: restarted(house.engine(), before))


async def test_an_adopted_process_that_ends_is_restarted_too(house: Bench) -> None:
    await killed_engine(house, STARTS)
    engine = house.engine()
    before = await go_live(engine, candidate())
    async with supervised(engine):
        assert before.pid
        os.kill(before.pid, signal.SIGKILL)
        await eventually(lambda: restarted(engine, before))
    assert "penstock: web ended, restart 1 in 0.2 s" in log_of(house, "shop-1")


async def test_a_process_that_keeps_ending_is_restarted_ever_more_slowly(house: Bench) -> None:
    engine = house.engine()
    worker = candidate(processes={"worker": "sleep 0.2; exit 3"})
    async with supervised(engine):
        await engine.start(worker)
        await engine.switch(route(worker))
        log = house.settings.state / "runtime/shop-1/worker.log"
        await eventually(lambda: "worker ended with exit code 3, restart 2 in 0.4 s" in log.read_text())


async def test_workers_that_outlive_their_master_are_ended_before_it_comes_back(house: Bench) -> None:
    engine = house.engine()
    one = candidate(processes={"web": "sleep 600 & exec python serve.py"})
    async with supervised(engine):
        before = await go_live(engine, one)
        with contextlib.suppress(aiohttp.ClientError):
            await get(before, "/exit")
        after = await eventually(lambda: restarted(engine, before))
        await eventually(lambda: answers(after))
        assert [process.name() for process in house.processes()].count("sleep") == 1


async def test_when_somebody_has_taken_its_port_a_process_gets_another_and_a_new_route(house: Bench) -> None:
    engine = house.engine()
    state = await go_live(engine, candidate())
    assert state.pid
    os.kill(state.pid, signal.SIGKILL)
    await eventually(lambda: not house.processes() and local._is_free(state.port or 0))
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", state.port))
        thief.listen()
        async with supervised(house.engine()):
            after = await eventually(lambda: restarted(engine, state))
            assert after.port != state.port
            await eventually(lambda: house.router.puts[-1] == ("shop", f"127.0.0.1:{after.port}"))


async def test_a_candidate_that_is_not_live_is_not_restarted(house: Bench) -> None:
    engine = house.engine()
    dying = candidate("shop-2", mode="dies")
    async with supervised(engine):
        await go_live(engine, candidate("shop-1"))
        await engine.start(dying)
        with pytest.raises(Unhealthy):
            await engine.healthy(dying)
        first = await state_of(engine, "shop-1")
        os.kill(first.pid or 0, signal.SIGKILL)
        await eventually(lambda: restarted(engine, first))
    assert log_of(house, "shop-2").count("begins") == 1


async def test_logs_that_grow_too_long_keep_their_newer_half(
    house: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOG_LIMIT", 1000)
    monkeypatch.setattr(local, "ROUND", 0.05)
    engine = house.engine()
    go = house.settings.state / "runtime/shop-1/tmp/go"
    go.parent.mkdir(parents=True)
    os.mkfifo(go)
    one = candidate(processes={"web": "seq 1000; read -r _ <$TMPDIR/go; echo more; exec sleep 600"})
    await engine.start(one)
    log = house.settings.state / "runtime/shop-1/web.log"
    await eventually(lambda: log.read_text().endswith("1000\n"))
    async with supervised(engine):
        await eventually(lambda: log.stat().st_size <= 500)
    go.write_text("\n")
    await eventually(lambda: log.read_text().endswith("999\n1000\nmore\n"))


# The end of a release


async def test_a_release_is_ended_only_when_its_requests_are_through(short_tmp: Path) -> None:
    async with bench(short_tmp, drain_timeout=60) as house:
        engine = house.engine()
        old = await go_live(engine, candidate("shop-1"))
        await go_live(engine, candidate("shop-2"))
        upstream = f"127.0.0.1:{old.port}"
        house.router.travelling[upstream] = 1
        retiring = asyncio.create_task(engine.retire("shop", keep="shop-2"))
        await eventually(lambda: house.router.asked.count(upstream) >= 3)
        assert await get(old)
        house.router.travelling[upstream] = 0
        await retiring
        assert [state.candidate for state in await engine.observe()] == ["shop-2"]


async def test_releases_that_are_ended_by_several_runs_at_once_are_all_ended(
    house: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "KEPT_LOGS", 0)
    engine = house.engine()
    for number in range(1, 5):
        await engine.start(candidate(f"shop-{number}"))
    await asyncio.gather(*(engine.retire("shop", keep="shop-4") for _ in range(8)))
    assert [state.candidate for state in await engine.observe()] == ["shop-4"]


async def test_a_release_that_drains_for_long_does_not_hold_up_the_end_of_the_next(short_tmp: Path) -> None:
    async with bench(short_tmp, drain_timeout=60) as house:
        engine = house.engine()
        oldest = await go_live(engine, candidate("shop-1"))
        upstream = f"127.0.0.1:{oldest.port}"
        house.router.travelling[upstream] = 1
        await go_live(engine, candidate("shop-2"))
        retiring = asyncio.create_task(engine.retire("shop", keep="shop-2"))
        await eventually(lambda: upstream in house.router.asked)
        await go_live(engine, candidate("shop-3"))
        await engine.retire("shop", keep="shop-3")
        assert [state.candidate for state in await engine.observe()] == ["shop-1", "shop-3"]
        house.router.travelling.clear()
        await retiring
        assert [state.candidate for state in await engine.observe()] == ["shop-3"]


async def test_a_release_whose_requests_never_end_is_ended_after_the_drain_timeout(house: Bench) -> None:
    engine = house.engine()
    old = await go_live(engine, candidate("shop-1"))
    house.router.travelling[f"127.0.0.1:{old.port}"] = 1
    await engine.retire("shop", keep=None)
    assert house.processes() == []


@pytest.mark.parametrize("mode", ["stubborn", "daemon"])
async def test_a_release_ends_with_all_its_processes_and_leaves_its_log(house: Bench, mode: str) -> None:
    engine = house.engine()
    await go_live(engine, candidate(mode=mode))
    await engine.retire("shop", keep=None)
    assert house.processes() == []
    assert not (house.settings.state / "runtime/shop-1").exists()
    kept = house.settings.state / "logs/apps/shop/shop-1-web.log"
    assert kept.read_text().startswith(f"begins {mode}")


async def test_a_retired_release_is_not_restarted(house: Bench) -> None:
    engine = house.engine()
    async with supervised(engine):
        await go_live(engine, candidate())
        await engine.retire("shop", keep=None)
        assert house.processes() == []


async def test_what_was_stopped_comes_back_with_the_next_engine(house: Bench) -> None:
    before = await go_live(house.engine(), candidate())
    await house.engine().stop()
    assert house.processes() == []
    engine = house.engine()
    async with supervised(engine):
        await eventually(lambda: house.processes() != [])
        await engine.healthy(candidate())
        assert (await state_of(engine, "shop-1")).port == before.port


async def test_what_another_version_has_written_down_is_stopped_too(house: Bench, short_tmp: Path) -> None:
    await go_live(house.engine(), candidate())
    (record,) = short_tmp.glob("**/shop-1/candidate")
    record.write_text('{"app": "shop"}')
    await house.engine().stop()
    assert house.processes() == []


async def test_everything_can_be_stopped_without_a_router(house: Bench, short_tmp: Path) -> None:
    await go_live(house.engine(), candidate())
    (short_tmp / "router.sock").unlink()
    await house.engine().stop()
    assert house.processes() == []


# The way to the router


async def test_a_router_that_is_restarting_is_waited_for(house: Bench, short_tmp: Path) -> None:
    client = RouterClient(short_tmp / "late.sock")
    target = RouteTarget("shop.localhost", 7100, "v1", None, None)
    putting = asyncio.create_task(client.put("shop", target))
    await asyncio.sleep(0)
    async with house.router.serving(short_tmp / "late.sock"):
        await putting
        assert await client.routes() == {"shop": target}
        await client.close()


async def test_a_router_that_is_not_there_is_unavailable(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock_pipeline.runtimes.routing._PAUSES", (0.001,))
    client = RouterClient(short_tmp / "none.sock")
    with pytest.raises(RuntimeUnavailable, match=r"the router does not answer on .*none.sock"):
        await client.inflight("127.0.0.1:1")
    await client.close()
