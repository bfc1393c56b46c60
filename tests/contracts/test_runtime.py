"""What every runtime promises, tried on the fake and on the local one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from plugins.house import eventually
from plugins.local_bench import bench, candidate, needs_bubblewrap, route

from penstock_pipeline.config import Command
from penstock_pipeline.errors import Conflict, StageFailed, Unhealthy
from penstock_pipeline.runtimes import Candidate, ProcessState, Runtime
from penstock_pipeline.runtimes.fake import FakeRuntime, Scripted

RED = "echo running; echo failing >&2; exit 3"
HANGS = ("sh", "-c", "echo running; sleep 600")


@dataclass
class Subject:
    runtime: Runtime
    tree: Path

    async def execute(self, command: Command, *, timeout: float = 30) -> tuple[int, bytes]:
        chunks: list[bytes] = []
        code = await self.runtime.execute(
            command, name="shop-1-test", tree=self.tree, env={}, output=chunks.append, timeout=timeout
        )
        return code, b"".join(chunks)

    async def up(self, candidate: Candidate) -> list[ProcessState]:
        await self.runtime.start(candidate)
        await self.runtime.healthy(candidate)
        return await self.of(candidate)

    async def of(self, candidate: Candidate) -> list[ProcessState]:
        return [state for state in await self.runtime.observe() if state.candidate == candidate.name]


@contextlib.asynccontextmanager
async def fake(state: Path) -> AsyncIterator[Subject]:
    runtime = FakeRuntime()
    runtime.commands[RED] = Scripted(code=3, output=b"running\nfailing\n")
    runtime.commands[HANGS] = Scripted(output=b"running\n", hangs=True)
    runtime.never_healthy.add("commit-of-red-1")
    runtime.fails_to_start.add("commit-of-dies-1")
    yield Subject(runtime, state)


@contextlib.asynccontextmanager
async def local(state: Path, sandbox: str = "none") -> AsyncIterator[Subject]:
    tree = state / "tree"
    tree.mkdir()
    async with bench(state, sandbox=sandbox) as made:
        yield Subject(made.engine(), tree)


@contextlib.asynccontextmanager
async def sandboxed(state: Path) -> AsyncIterator[Subject]:
    needs_bubblewrap()
    async with local(state, "bubblewrap") as made:
        yield made


@pytest.fixture(params=[fake, local, sandboxed], ids=["fake", "local", "sandboxed"])
async def subject(request: pytest.FixtureRequest, short_tmp: Path) -> AsyncIterator[Subject]:
    async with request.param(short_tmp) as made:
        yield made


def runs(states: list[ProcessState]) -> list[tuple[str, Any]]:
    return [(state.process, state.pid) for state in states]


async def test_a_command_that_goes_well_is_zero(subject: Subject) -> None:
    assert await subject.execute("true") == (0, b"")


async def test_a_command_tells_its_code_and_both_its_outputs(subject: Subject) -> None:
    assert await subject.execute(RED) == (3, b"running\nfailing\n")


async def test_a_command_that_takes_too_long_fails_with_the_seconds_and_its_name(subject: Subject) -> None:
    with pytest.raises(StageFailed, match=r"`sh -c echo running; sleep 600` ran longer than 0.1 s"):
        await subject.execute(HANGS, timeout=0.1)


async def test_a_command_can_be_cancelled(subject: Subject) -> None:
    running = asyncio.create_task(subject.execute(HANGS))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_started_candidate_becomes_healthy_and_is_observed(subject: Subject) -> None:
    shop = candidate()
    await subject.runtime.start(shop)
    assert await subject.runtime.healthy(shop) >= 1
    [state] = await subject.of(shop)
    assert (state.app, state.process, state.restarts) == ("shop", "web", 0)
    assert state.pid
    assert state.port
    assert state.started_at


async def test_starting_again_adopts_what_runs(subject: Subject) -> None:
    first = await subject.up(candidate())
    assert await subject.up(candidate()) == first


async def test_a_candidate_with_nothing_to_start_is_healthy_without_a_check(subject: Subject) -> None:
    static = replace(candidate(processes={}), image=None)
    await subject.runtime.start(static)
    assert await subject.runtime.healthy(static) == 0
    await subject.runtime.switch(route(static))
    assert await subject.runtime.observe() == []


async def test_a_candidate_that_ends_is_unhealthy_and_says_why(subject: Subject) -> None:
    dying = candidate("dies-1", mode="dies")
    await subject.runtime.start(dying)
    with pytest.raises(Unhealthy, match="web ended with exit code 1 before it was healthy") as raised:
        await subject.runtime.healthy(dying)
    assert raised.value.tail[-1] == "it cannot start"


async def test_a_candidate_that_answers_500_is_unhealthy_in_the_end(subject: Subject) -> None:
    red = candidate("red-1", mode="red", path="/", within=0.5)
    await subject.runtime.start(red)
    with pytest.raises(Unhealthy, match=r"web was not healthy within 0.5 s: GET / answered 500") as raised:
        await subject.runtime.healthy(red)
    assert raised.value.tail


async def test_only_the_kept_candidate_stays(subject: Subject) -> None:
    old, new, other = candidate("shop-1"), candidate("shop-2"), candidate("blog-1")
    for one in (old, new, other):
        await subject.up(one)
        await subject.runtime.switch(route(one))
    kept = runs(await subject.of(new))
    for _ in range(2):
        await subject.runtime.retire("shop", keep="shop-2")
        assert await subject.of(old) == []
        assert runs(await subject.of(new)) == kept
        assert len(await subject.of(other)) == 1
    await subject.runtime.retire("shop", keep=None)
    assert await subject.of(new) == []


async def test_a_candidate_that_never_had_traffic_is_ended_too(subject: Subject) -> None:
    live, red = candidate("red-0"), candidate("red-1", mode="red", within=0.1)
    await subject.up(live)
    await subject.runtime.switch(route(live))
    await subject.runtime.start(red)
    with pytest.raises(Unhealthy):
        await subject.runtime.healthy(red)
    await subject.runtime.retire("red", keep="red-0")
    assert await subject.of(red) == []
    await eventually(lambda: subject.of(live))


async def test_switching_may_be_repeated(subject: Subject) -> None:
    await subject.up(candidate())
    await subject.runtime.switch(route(candidate()))
    await subject.runtime.switch(route(candidate()))


async def test_a_candidate_that_was_not_started_gets_no_traffic(subject: Subject) -> None:
    with pytest.raises(Conflict, match="shop-1 was not started"):
        await subject.runtime.switch(route(candidate()))


async def test_an_app_is_served_once_it_has_traffic_and_until_its_candidate_is_gone(subject: Subject) -> None:
    await subject.up(candidate())
    assert await subject.runtime.serves() == set()
    await subject.runtime.switch(route(candidate()))
    assert await subject.runtime.serves() == {"shop"}
    await subject.runtime.retire("shop", keep=None)
    assert await subject.runtime.serves() == set()


async def test_an_app_of_static_files_is_served_by_its_route_alone(subject: Subject) -> None:
    await subject.runtime.switch(replace(route(candidate()), candidate=None))
    assert await subject.runtime.serves() == {"shop"}
