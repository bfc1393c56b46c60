"""The command line finds Penstock, says what there is, and ends with the code that fits."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from plugins import recorded
from plugins.house import eventually
from typer.main import get_command
from typer.testing import CliRunner, Result

from penstock_pipeline import __version__
from penstock_pipeline.api import Api, problems, router
from penstock_pipeline.cli import commands, house
from penstock_pipeline.cli.client import state_folder
from penstock_pipeline.model import App, Run, RunKind, StageName
from penstock_pipeline.runtimes import ProcessState
from penstock_pipeline.settings import Settings
from penstock_pipeline.store import SqliteStore, history, registry, subscriptions
from penstock_pipeline.tokens import Scope

COMMIT = "4f51232" + "a" * 33
OTHER = "9ad1c0f" + "b" * 33


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PENSTOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state folder that commands take by themselves."""
    folder = tmp_path / "penstock"
    folder.mkdir()
    return folder


@pytest.fixture
async def api(state: Path) -> AsyncIterator[Api]:
    store = SqliteStore(state / "penstock.db")
    await store.open()
    yield recorded.api_over(store, state)
    await store.close()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest.fixture
async def url(api: Api, state: Path) -> AsyncIterator[str]:
    """A real server with the API; its address and token are in the state folder."""
    web = FastAPI()
    problems(web)
    web.include_router(router(api), prefix="/api")
    config = uvicorn.Config(web, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1)
    server = _Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listener]), name="web")
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    told = {"url": address, "token": api.tokens.issue("ann", Scope.MANAGE), "pid": os.getpid()}
    (state / "client.json").write_text(json.dumps(told))
    yield address
    server.should_exit = True
    await serving


@pytest.fixture
async def shop(api: Api, url: str) -> App:
    return await api.store.write(registry.add, name="shop", branch="main", port=7100)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(commands, arguments, env=environment)


async def penstock(*arguments: str, code: int = 0, **environment: str) -> Result:
    """A command in a thread, while the server answers; it must end with this code."""
    result = await asyncio.to_thread(run, *arguments, **environment)
    assert result.exit_code == code, result.output
    return result


async def document(*arguments: str, code: int = 0) -> Any:
    """The one JSON document that a command prints."""
    return json.loads((await penstock(*arguments, "--json", code=code)).stdout)


async def started(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    """A command as a process of its own."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "penstock_pipeline",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )


# -- without a Penstock


def test_commands_that_ask_load_nothing_heavy() -> None:
    """`pydantic` is not among what is asked for: typer may load it to read a number."""
    program = (
        "import sys; from typer.testing import CliRunner; from penstock_pipeline.cli import commands\n"
        "for line in ('--help', 'runs', 'version'): CliRunner().invoke(commands, [line])\n"
        "print([name for name in ('asyncio', 'fastapi', 'sqlalchemy', 'uvicorn') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_help_tells_the_commands_and_exit_codes() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "...\n" not in result.stdout.partition("Commands:")[2], "a line that is cut"
    for word in ("up", "down", "demo", "apps", "rollback", "Exit codes", "PENSTOCK_URL", "130"):
        assert word in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 82


def test_every_command_has_an_example_in_its_help() -> None:
    def walk(command: Any, name: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for verb, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*name, verb)) if hasattr(inner, "commands") else [(*name, verb)]

    every = list(walk(get_command(commands), ()))
    assert ("config", "set") in every
    for name in every:
        if name != ("hook",):  # reads its own options, see test_hook
            told = run(*name, "--help").stdout
            assert f"penstock {' '.join(name)}".removesuffix(" list") in told.partition("Example:")[2], name


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "\x1b[2J"),
        ("\x1b[2Jrun",),
        ("runs", "--\x1b[2Jx"),
        ("logs", "--stage", "\x1b[2J\n"),
        ("config", "set", "shop", "\x1b[2J"),
        ("rollback", "shop", "\x1b[2J\u202e"),
        ("token", "--expires", "\x1b]0;title\x07"),
        ("lint", "\x1b[2J"),
    ],
)
def test_what_is_typed_wrong_is_told_without_its_escape_sequences(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code in (2, 3)
    assert not {"\x1b", "\x07", "\u202e"} & set(result.output)


def test_the_version_is_printed() -> None:
    assert run("version").stdout == f"penstock {__version__}\n"
    assert json.loads(run("version", "--json").stdout) == {"version": __version__}


@pytest.mark.parametrize("named", [None, "/srv/penstock", "relative/folder", "~/somewhere"])
@pytest.mark.parametrize("base", [None, "/var/lib", ""])
def test_client_and_settings_agree_where_the_state_is(
    monkeypatch: pytest.MonkeyPatch, named: str | None, base: str | None
) -> None:
    for name, value in (("PENSTOCK_STATE", named), ("XDG_STATE_HOME", base)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert state_folder(None) == Settings().state


def test_settings_bear_what_the_command_line_reads_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENSTOCK_URL", "https://penstock.example.com")
    monkeypatch.setenv("PENSTOCK_TOKEN", "a.b.c")
    assert Settings().port == 7070


def test_where_nothing_runs_two_lines_say_so(state: Path) -> None:
    result = run("runs")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f" !     no Penstock runs over {state}",
        " !     start it: penstock up; or name its folder: --state DIR",
    ]


def test_a_penstock_that_has_gone_is_out_of_reach(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    (state / "client.json").write_text(json.dumps({"url": f"http://127.0.0.1:{port}", "token": "t"}))
    result = run("status")
    assert result.exit_code == 3
    assert f"Penstock at http://127.0.0.1:{port} does not answer: Connection refused" in result.stderr


@pytest.mark.parametrize("content", ["", "[]", "{}", "{"])
def test_a_broken_client_file_is_told(state: Path, content: str) -> None:
    (state / "client.json").write_text(content)
    result = run("status")
    assert result.exit_code == 3
    assert "client.json cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("frobnicate",), "No such command"),
        (("show", "x"), "RUN"),
        (("apps", "--json", "add", "shop"), "unexpected extra argument"),
        (("logs", "1", "--app", "shop"), "not both"),
        (("logs", "1", "-f", "--stage", "test"), "cannot be followed"),
        (("rollback", "shop", "v0"), "'v0' is not a release; it looks like v41"),
        (("token", "--expires", "soon"), "'soon' is not a time; it looks like 12h or 30d"),
    ],
)
def test_wrong_usage_is_told(state: Path, arguments: tuple[str, ...], says: str) -> None:
    (state / "client.json").write_text(json.dumps({"url": "http://127.0.0.1:1", "token": "t"}))
    result = run(*arguments)
    assert (result.exit_code, says in result.stderr) == (2, True), result.stderr


def test_wrong_settings_are_told_each_in_a_line(tmp_path: Path) -> None:
    result = run("up", "--port", "99999", "--domain", "a b", PENSTOCK_DRAIN_TIMEOUT="-1")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        " !     port (PENSTOCK_PORT) is 99999: Input should be less than or equal to 65535",
        " !     domain (PENSTOCK_DOMAIN) is 'a b': must be a host name such as apps.example.com",
        " !     drain_timeout (PENSTOCK_DRAIN_TIMEOUT) is '-1': Input should be greater than or equal to 0",
    ]
    for given in ("7081,7082", "7081"):
        result = run("up", PENSTOCK_EDGE_PORTS=given)
        assert result.exit_code == 2
        assert "lists are written like [7081,7082]" in result.stderr


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("up", "--state", str(tmp_path / "file" / "state"))
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f" !     {tmp_path / 'file' / 'state'}: Not a directory\n"


def test_down_over_nothing_is_done(tmp_path: Path) -> None:
    result = run("down", "--state", str(tmp_path / "none"))
    assert (result.exit_code, result.stdout) == (0, f"nothing runs over {tmp_path / 'none'}\n")
    assert not (tmp_path / "none").exists()


def test_the_demo_takes_no_folder_that_holds_something(state: Path) -> None:
    (state / "penstock.db").write_text("precious")
    result = run("demo", "--once", "--state", str(state))
    assert (result.exit_code, "is not empty" in result.stderr) == (2, True)
    assert (state / "penstock.db").read_text() == "precious"


# -- with one


async def test_a_new_app_comes_with_what_to_paste(api: Api, url: str) -> None:
    assert "penstock apps add" in (await penstock("apps")).stdout
    lines = (await penstock("apps", "add", "shop")).stdout.splitlines()
    added = next(line for line in lines if line.startswith("git remote add penstock "))
    token, _, rest = added.removeprefix("git remote add penstock http://penstock:").partition("@")
    assert f"http://{rest}" == f"{url}/git/shop"
    assert api.tokens.verify(token).may_push("shop")
    assert "git push penstock main" in lines
    again = await penstock("apps", "add", "shop", code=2)
    assert again.stderr == " !     there is an app shop already\n"


async def test_a_new_app_with_a_repository_tells_its_webhook(api: Api, url: str) -> None:
    result = await penstock("apps", "add", "shop", "--repository", "https://forge.example/shop.git")
    sealed = (await api.store.read(registry.get, "shop")).webhook_sealed
    assert sealed
    assert sealed.removeprefix("sealed ") in result.stdout
    assert "/hooks/github/shop" in result.stdout
    added = await document("apps", "add", "other", "--branch", "live")
    assert added["remote"].endswith("/git/other")
    assert added["token"] in added["remote"]
    assert added["app"]["branch"] == "live"


async def test_a_new_app_tells_where_its_forge_wants_the_webhook(api: Api, url: str) -> None:
    options = ("--repository", "https://forge.example/shop.git", "--webhook-secret", "s" * 32)
    result = await penstock("apps", "add", "shop", *options, "--forge", "gitlab")
    assert "/hooks/gitlab/shop" in result.stdout
    assert "Or let GitLab tell of pushes. Settings > Webhooks" in result.stdout
    assert "signing token  whsec_c3Nzc3Nz" in result.stdout
    lacking = await penstock("apps", "add", "other", "--forge", "gitlab", code=2)
    assert "where to fetch from: --repository URL" in lacking.stderr
    wrong = await penstock("apps", "add", "other", "--forge", "sourcehut", code=2)
    assert "github, gitlab, gitea, forgejo, generic" in " ".join(wrong.stderr.split())


async def test_apps_and_status_show_what_is_live_runs_and_moves(api: Api, shop: App) -> None:
    assert isinstance(api.orders, recorded.RecordingOrders)
    api.orders.processes = [
        ProcessState("shop", "shop-1", "web", 4711, 7190, 1, 1.0),
        ProcessState("shop", "shop-2", "web", 4712, 7191, 0, 1.0),
    ]
    await recorded.succeeded(api.store, await recorded.accepted(api.store, shop, COMMIT))
    await recorded.accepted(api.store, shop, OTHER)
    assert (await penstock("apps")).stdout.splitlines() == [
        "APP   LIVE  COMMIT   MOVING        URL",
        "shop  v1    4f51232  run 2 queued  http://shop.localhost:7080/",
    ]
    assert (await penstock("status")).stdout.splitlines()[2:] == [
        "APP   LIVE  PROCESSES                             MOVING",
        "shop  v1    web pid 4711 (1 restart), 1 not live  run 2 queued",
    ]
    assert (await document("apps"))[0]["live"]["label"] == "v1"
    assert (await document("status"))["moving"][0]["id"] == 2


async def test_runs_and_releases_are_listed(api: Api, shop: App) -> None:
    assert "No runs yet" in (await penstock("runs")).stdout
    assert "no release yet" in (await penstock("releases", "shop")).stdout
    await recorded.succeeded(api.store, await recorded.accepted(api.store, shop, COMMIT))
    await recorded.accepted(api.store, shop, OTHER, pusher="\x1b[2Jeve")
    header, newest, oldest = (await penstock("runs")).stdout.splitlines()
    assert header.split() == ["RUN", "APP", "STATUS", "RELEASE", "COMMIT", "BY", "TOOK", "BEGAN"]
    assert newest.split()[:7] == ["2", "shop", "queued", "–", "9ad1c0f", "eve", "–"]
    assert oldest.split()[:6] == ["1", "shop", "succeeded", "v1", "4f51232", "ann"]
    assert "\x1b" not in newest
    assert [one["id"] for one in await document("runs", "-n", "1", "--app", "shop")] == [2]
    assert (await penstock("releases", "shop")).stdout.splitlines()[1].split()[:4] == [
        "v1",
        "live",
        "4f51232",
        "1",
    ]
    assert (await document("releases", "shop"))[0]["live"]


async def test_nothing_is_cut_in_a_pipe(api: Api, shop: App) -> None:
    pusher = "someone-with-a-name-" * 10
    await recorded.accepted(api.store, shop, COMMIT, pusher=pusher)
    process = await started("runs", COLUMNS="40")
    out, _ = await process.communicate()
    assert pusher in out.decode().splitlines()[1]


async def test_a_red_run_shows_its_stages_and_why(api: Api, shop: App) -> None:
    await recorded.failed(
        api.store,
        await recorded.accepted(api.store, shop, COMMIT),
        StageName.START,
        "the app ended",
        ("no price list [/bold]",),
    )
    lines = (await penstock("show", "1")).stdout.splitlines()
    assert lines[0] == "run 1 of shop: failed"
    assert lines[-2:] == [" !     the app ended", " !       no price list [/bold]"]
    assert next(line for line in lines if line.startswith("start")).split()[1] == "failed"
    assert (await document("show", "1"))["tail"] == ["no price list [/bold]"]
    assert (await penstock("show", "7", code=2)).stderr == " !     no run 7; see: penstock runs\n"
    assert "no app 'a b?c'" in (await penstock("releases", "a b?c", code=2)).stderr


async def test_logs_say_what_was_said_at_the_push(api: Api, shop: App) -> None:
    assert "no run yet" in (await penstock("logs", code=2)).stderr
    await recorded.accepted(api.store, shop, COMMIT)
    assert (await penstock("logs")).stdout == "-----> Accepted   4f51232 on main as run 1\n"
    assert (await penstock("logs", "--app", "shop")).exit_code == 0
    assert [event["kind"] for event in await document("logs", "1")] == ["accepted"]


async def test_a_stage_log_goes_through_a_pipe_as_it_is(api: Api, shop: App) -> None:
    await recorded.accepted(api.store, shop, COMMIT)
    printed = b"\x1b[31mred\xff\r\n" * 1000 + b"no end"
    with api.logs.open(1, StageName.TEST) as log:
        log.write(printed)
    process = await started("logs", "1", "--stage", "test")
    out, _ = await process.communicate()
    assert out == printed
    assert (await document("logs", "1", "--stage", "test"))["log"].endswith("no end")
    assert "it has: test" in (await penstock("logs", "1", "--stage", "build", code=2)).stderr


async def test_following_ends_with_the_outcome(api: Api, shop: App) -> None:
    red = await recorded.accepted(api.store, shop, COMMIT)
    following = asyncio.create_task(penstock("logs", "-f", code=1), name="follow")
    await recorded.failed(api.store, red, StageName.TEST, "2 tests failed")
    assert " !     Test: 2 tests failed" in (await following).stdout
    await recorded.succeeded(api.store, await recorded.accepted(api.store, shop, OTHER))
    events = (await penstock("logs", "-f", "2", "--json")).stdout.splitlines()
    assert json.loads(events[-1])["kind"] == "run.succeeded"


async def test_what_is_followed_is_heard_at_once_and_left_with_ctrl_c(api: Api, shop: App) -> None:
    await recorded.accepted(api.store, shop, COMMIT)
    process = await started("logs", "-f", "1")
    assert process.stdout is not None
    assert b"Accepted" in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, told = await process.communicate()
    assert told.decode() == " !     detached; the run goes on: penstock logs -f 1\n"
    assert process.returncode == 130
    assert not (await api.store.read(history.run, 1)).status.ended


async def test_a_reader_that_leaves_is_no_error(api: Api, shop: App) -> None:
    await recorded.accepted(api.store, shop, COMMIT)
    with api.logs.open(1, StageName.TEST) as log:
        log.write(b"a line\n" * 100_000)
    for arguments in (("logs", "1", "--stage", "test"), ("runs", "--json")):
        reading, writing = os.pipe()
        os.close(reading)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "penstock_pipeline", *arguments),
            stdout=writing,
            stderr=asyncio.subprocess.PIPE,
        )
        os.close(writing)
        _, told = await process.communicate()
        assert told == b"", told.decode()


async def test_an_engine_that_stops_while_it_is_followed_is_told(api: Api, url: str, state: Path) -> None:
    async def leaves(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\nPenstock-Version: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"6\r\nhello\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(leaves, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await penstock(
        "logs", "-f", "1", code=3, PENSTOCK_URL=f"http://127.0.0.1:{port}", PENSTOCK_TOKEN="t"
    )
    assert result.stdout == "hello\n"
    assert "does not answer" in result.stderr
    server.close()


async def test_an_odd_argument_is_told_and_never_taken_for_another(api: Api, shop: App) -> None:
    await recorded.accepted(api.store, shop, COMMIT)
    assert "greater than or equal to 1" in (await penstock("logs", "0", code=2)).stderr
    for arguments in (("releases", "caf\udce9"), ("runs", "--app", "caf\udce9")):
        assert "no app 'caf?'" in (await penstock(*arguments, code=2)).stderr
    for url, token, code, says in (
        ("http://[::1", "t", 2, "is not an address"),
        ("http://127.0.0.1:1", "ä\n", 4, "is given as a token"),
    ):
        told = await penstock("runs", code=code, PENSTOCK_URL=url, PENSTOCK_TOKEN=token)
        assert says in told.stderr


async def test_cancel_ends_a_run_once(api: Api, shop: App) -> None:
    await recorded.accepted(api.store, shop, COMMIT)
    assert (await penstock("cancel", "1")).stdout == "run 1 is cancelled\n"
    assert "cancelled" in (await penstock("cancel", "1", code=2)).stderr
    assert (await penstock("logs", "-f", "1", code=1)).stdout.endswith(" !     cancelled by ann\n")


async def test_a_rollback_is_followed_to_its_outcome(api: Api, shop: App) -> None:
    for commit in (COMMIT, OTHER):
        await recorded.succeeded(api.store, await recorded.accepted(api.store, shop, commit))

    async def queued(number: int) -> Run | None:
        runs = await api.store.read(history.recent_runs)
        return next((run for run in runs if run.id == number and run.kind is RunKind.ROLLBACK), None)

    following = asyncio.create_task(penstock("rollback", "shop", "v1"), name="rollback")
    await recorded.succeeded(api.store, await eventually(lambda: queued(3)))  # type: ignore[arg-type]
    assert "rollback to v1 as run 3, by ann" in (await following).stdout
    assert "penstock logs -f 4" in (await penstock("rollback", "shop", "1", "--detach")).stdout
    assert "nothing to go back to" in (await penstock("rollback", "shop", "v9", code=2)).stderr


async def test_tokens_are_printed_alone_ready_for_a_pipe(api: Api, shop: App) -> None:
    token = (await penstock("token", "--app", "shop", "--name", "ci", "--expires", "12h")).stdout.strip()
    identity = api.tokens.verify(token)
    assert (identity.name, identity.scope, identity.app) == ("ci", Scope.PUSH, "shop")
    manage = (await penstock("token", "--manage")).stdout.strip()
    assert api.tokens.verify(manage).scope is Scope.MANAGE
    assert (await document("token", "--expires", "30d"))["seconds"] == 30 * 86400


async def test_a_penstock_elsewhere_is_reached_by_url_and_token(api: Api, url: str, tmp_path: Path) -> None:
    elsewhere = {"XDG_STATE_HOME": str(tmp_path / "nowhere"), "PENSTOCK_URL": f"{url}/"}
    push = api.tokens.issue("ann", Scope.PUSH)
    manage = api.tokens.issue("ann", Scope.MANAGE)
    assert url in (await penstock("status", **elsewhere, PENSTOCK_TOKEN=manage)).stdout
    assert "pushes alone" in (await penstock("status", code=4, **elsewhere, PENSTOCK_TOKEN=push)).stderr
    assert "not valid" in (await penstock("status", code=4, **elsewhere, PENSTOCK_TOKEN="x")).stderr
    assert "PENSTOCK_TOKEN is missing" in (await penstock("status", code=4, **elsewhere)).stderr
    wrong = {**elsewhere, "PENSTOCK_URL": "penstock.example.com"}
    assert "looks like http" in (await penstock("status", code=2, **wrong, PENSTOCK_TOKEN="x")).stderr


async def test_a_folder_that_is_named_goes_before_the_environment(url: str, state: Path) -> None:
    named = ("status", "--state", str(state))
    await penstock(*named, PENSTOCK_URL="http://127.0.0.1:1", PENSTOCK_TOKEN="x")


async def test_colour_is_for_terminals_that_want_it(api: Api, shop: App) -> None:
    await recorded.accepted(api.store, shop, COMMIT)
    assert "\x1b" not in (await penstock("runs")).stdout
    assert "\x1b[36m" in (await penstock("runs", FORCE_COLOR="1")).stdout
    assert "\x1b[36m" not in (await penstock("runs", FORCE_COLOR="1", NO_COLOR="1")).stdout


# -- who is told


async def test_who_is_told_is_added_listed_and_removed(shop: App) -> None:
    assert "Nobody is told yet" in (await penstock("events")).stdout
    added = (await penstock("events", "add", "http://127.0.0.1:1/hook", "--app", "shop")).stdout
    assert "is told of shop from now on" in added
    assert "whsec_" in added
    listed = (await penstock("events")).stdout
    assert "http://127.0.0.1:1/hook" in listed
    assert "whsec_" not in listed
    assert (await document("statuses"))[0]["kind"] == "webhook"
    assert "127.0.0.1" in (await penstock("events", "test", "1", code=3)).output
    assert "told nothing more" in (await penstock("events", "remove", "1")).stdout
    assert await document("events") == []


async def test_dead_letters_are_shown_and_sent_again(api: Api, shop: App) -> None:
    assert "No dead letters" in (await penstock("events", "dead")).stdout
    await penstock("events", "add", "http://127.0.0.1:1/hook")
    run = await recorded.accepted(api.store, shop, COMMIT)
    (event,) = await api.store.read(history.events_after, 0, run_id=run.id)
    await api.store.write(subscriptions.failed, 1, event.id, error="answers 500", next_at=None)
    assert "answers 500" in (await penstock("events", "dead")).stdout
    assert "answers 500" in (await penstock("events")).stdout
    for wrong in (("retry",), ("retry", "1", "--all"), ("retry", "--all", "--event", "1")):
        assert "name one subscription" in (await penstock("events", *wrong, code=2)).output
    assert (await document("events", "retry", "--all")) == {"retried": 1}
    assert (
        await penstock("events", "retry", "1")
    ).stdout == "0 dead letters on the way again, and whatever comes\n"


async def test_a_forges_token_is_read_from_standard_input(shop: App) -> None:
    told = ("statuses", "add", "shop", "--forge", "gitea", "--url", "http://127.0.0.1:1/api/v1")
    runner = CliRunner()
    command = (*told, "--repository", "you/shop")
    result = await asyncio.to_thread(runner.invoke, commands, command, "t0ken\n")
    assert result.exit_code == 0, result.output
    assert "http://127.0.0.1:1/api/v1/repos/you/shop is told how commits of shop stand" in result.stdout
    assert "t0ken" not in result.output + (await penstock("statuses")).output
    assert "--repository" in (await asyncio.to_thread(runner.invoke, commands, told, "t0ken\n")).output


def test_only_a_terminal_is_told_the_way_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state=tmp_path)
    house._tell_ready(settings, "an-invitation", as_json=False)
    house._tell_ready(settings, "an-invitation", as_json=True)
    assert "an-invitation" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    house._tell_ready(settings, "an-invitation", as_json=False)
    assert "http://127.0.0.1:7070/sign-in#an-invitation" in capsys.readouterr().out
