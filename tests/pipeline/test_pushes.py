"""The hooks' line: every push gets its verdict in words, and no hook can hold up the engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from plugins.house import eventually

from penstock_pipeline.errors import StoreUnavailable
from penstock_pipeline.model import Event, RunStatus, StageName
from penstock_pipeline.receiver import pushes as pushes_module
from penstock_pipeline.receiver.git import GitDoor
from penstock_pipeline.receiver.pushes import Pushes
from penstock_pipeline.repositories import NOTHING, Repositories
from penstock_pipeline.store import SqliteStore, queue, registry
from penstock_pipeline.store.follow import follow
from penstock_pipeline.store.logs import Logs
from penstock_pipeline.tell import Heard
from penstock_pipeline.tokens import Scope, Tokens

COMMIT = "4f51232" + "a" * 33


@pytest.fixture
async def pushes(short_tmp: Path) -> AsyncIterator[Pushes]:
    store = SqliteStore(short_tmp / "penstock.db")
    await store.open()
    repositories = Repositories(short_tmp / "repositories", hooks=short_tmp / "hooks", size_limit=10**9)
    await repositories.create("shop", branch="main")
    await store.write(registry.add, name="shop", branch="main", port=1)
    pushes = Pushes(store, Logs(short_tmp / "logs", limit=1000, changes=store.changes), repositories)
    async with pushes.listening(short_tmp / "hook.sock"):
        yield pushes
    await store.close()


class Hook:
    """A hook, spoken by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def asking(cls, folder: Path, *refs: str, app: str = "shop") -> Hook:
        hook = cls(*await asyncio.open_unix_connection(folder / "hook.sock", limit=1 << 26))
        commands = [[NOTHING, COMMIT, ref] for ref in refs]
        request = {"app": app, "pusher": "ann", "commands": commands, "options": []}
        hook.writer.write(json.dumps(request).encode() + b"\n")
        return hook

    async def heard(self) -> tuple[list[str], dict[str, str]]:
        """All that was said, and the verdicts."""
        said: list[str] = []
        async with asyncio.timeout(20):
            while line := await self.reader.readline():
                message: dict[str, Any] = json.loads(line)
                if "verdicts" in message:
                    await self.leave()
                    return said, message["verdicts"]
                said.append(message["say"])
        raise ConnectionError

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


async def test_a_push_to_an_app_that_is_gone_is_told(pushes: Pushes, short_tmp: Path) -> None:
    hook = await Hook.asking(short_tmp, "refs/heads/main", "refs/tags/v1", app="shpo")
    said, verdicts = await hook.heard()
    assert said == [" !     no app 'shpo'; did you mean shop?"]
    assert verdicts == dict.fromkeys(["refs/heads/main", "refs/tags/v1"], "no app 'shpo'; did you mean shop?")


async def test_a_push_of_very_many_tags_is_read(pushes: Pushes, short_tmp: Path) -> None:
    refs = [f"refs/tags/v{number}" for number in range(20_000)]
    hook = await Hook.asking(short_tmp, *refs, app="shpo")
    _, verdicts = await hook.heard()
    assert len(verdicts) == len(refs)


@pytest.mark.parametrize("name", ["topic-\udcff", "left\u202eright"])
async def test_a_name_that_is_no_plain_text_is_refused(pushes: Pushes, short_tmp: Path, name: str) -> None:
    _, verdicts = await (await Hook.asking(short_tmp, f"refs/heads/{name}")).heard()
    assert "must be plain text" in verdicts[f"refs/heads/{name}"]
    assert await pushes.repositories.tip("shop", f"refs/heads/{name}") is None


async def test_a_store_out_of_reach_is_told(
    pushes: Pushes, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(registry, "get", away)
    _, verdicts = await (await Hook.asking(short_tmp, "refs/heads/main")).heard()
    assert verdicts == {"refs/heads/main": "the store is away"}


async def test_git_hears_of_a_store_out_of_reach_and_not_of_an_app_that_is_gone(
    pushes: Pushes, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(registry, "get", away)
    tokens = Tokens(short_tmp / "token.key")
    door = GitDoor(pushes.store, pushes.repositories, tokens, most=4)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(door)) as client:
        url = "http://penstock/git/shop/info/refs?service=git-upload-pack"
        answer = await client.get(url, auth=("ann", tokens.issue("ann", Scope.MANAGE)))
    assert (answer.status_code, answer.text) == (503, "the store is away\n")


async def test_a_fault_of_our_own_is_told_as_such(
    pushes: Pushes, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bool:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(pushes.repositories, "is_commit", broken)
    _, verdicts = await (await Hook.asking(short_tmp, "refs/heads/main")).heard()
    assert verdicts == {"refs/heads/main": "a fault of Penstock's own: ZeroDivisionError('on purpose')"}


async def test_a_hook_that_does_not_listen_is_waited_for(
    pushes: Pushes, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 0

    async def flood(*_: object) -> AsyncIterator[Event]:
        nonlocal told
        for told in range(2000):
            await asyncio.sleep(0)
            data = {"says": "x" * 100_000, "seconds": 1}
            yield Event(told, 1, 1, datetime.now(UTC), "stage.done", StageName.TEST, data)

    async def is_commit(*_: object) -> bool:
        return True

    async def keep(*_: object) -> None:
        pass

    monkeypatch.setattr(pushes.repositories, "is_commit", is_commit)
    monkeypatch.setattr(pushes.repositories, "keep", keep)
    monkeypatch.setattr(pushes_module, "follow", flood)
    hook = await Hook.asking(short_tmp, "refs/heads/main")
    hook.reader._transport.pause_reading()  # type: ignore[attr-defined]
    seen = [-1, -2, -3]

    def stands_still() -> bool:
        seen.append(told)
        return told > 0 and len(set(seen[-20:])) == 1

    await eventually(stands_still)
    assert told < 200
    await hook.leave()
    await eventually(lambda: not pushes.answering)


async def test_hooks_are_let_go_when_penstock_stops(
    pushes: Pushes, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_commit(*_: object) -> bool:
        return True

    monkeypatch.setattr(pushes.repositories, "is_commit", is_commit)
    hook = await Hook.asking(short_tmp, "refs/heads/main")
    app = await pushes.store.read(registry.get, "shop")
    await eventually(lambda: pushes.store.read(queue.active, app.id))
    pushes.end()
    with pytest.raises(ConnectionError):
        await hook.heard()
    await hook.leave()
    with pytest.raises(OSError):  # refused, or the socket is gone: Python removes it since 3.13
        await Hook.asking(short_tmp, "refs/heads/main")


async def test_a_push_is_no_failure_when_it_is_approved_while_it_hears_that_it_waits(
    pushes: Pushes, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_commit(*_: object) -> bool:
        return True

    async def heard_then_approved(store: SqliteStore, logs: Logs, run_id: int) -> AsyncIterator[Heard]:
        async for heard in follow(store, logs, run_id):
            yield heard
        await store.write(queue.approve, run_id, by="ben")

    monkeypatch.setattr(pushes.repositories, "is_commit", is_commit)
    monkeypatch.setattr(pushes_module, "follow", heard_then_approved)
    hook = await Hook.asking(short_tmp, "refs/heads/main")
    assert b"Accepted" in await hook.reader.readline()
    (run,) = await pushes.store.write(queue.claim, holder="one", most=1)
    await pushes.store.write(queue.start_stage, run, StageName.APPROVE)
    await pushes.store.write(queue.finish, run.id, RunStatus.AWAITING)
    said, verdicts = await hook.heard()
    assert "NOT LIVE" in said[-1]
    assert verdicts == {"refs/heads/main": ""}


async def test_a_push_that_cannot_be_given_a_ref_is_accepted_all_the_same(
    pushes: Pushes, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is not there, so git refuses the ref; the run is committed and will say so."""

    async def is_commit(*_: object) -> bool:
        return True

    monkeypatch.setattr(pushes.repositories, "is_commit", is_commit)
    hook = await Hook.asking(short_tmp, "refs/heads/main")
    assert b"Accepted" in await hook.reader.readline()
    await hook.leave()
