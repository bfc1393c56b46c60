"""A crash loses nothing: the engine ends by SIGKILL at each write and each effect of a run, and the next one
goes on at once and ends the run right."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from plugins.dying import CENSUS, EFFECTS, FETCH, PARTS, WRITE
from plugins.pace import slow, spread
from plugins.penstock import WITHIN, Answer, Penstock, Repository, service, wait_for_end
from plugins.senders import SECRET, SENDERS, push

MOMENTS = ("before", "after")

Point = tuple[str, int, str]
"""Of which there it dies, at which pass, and whether before or after it."""


class Visitor(threading.Thread):
    """Asks for the app without pause; keeps what did not answer as it must."""

    def __init__(self, penstock: Penstock, url: str) -> None:
        super().__init__(name="visitor")
        self._penstock = penstock
        self._url = url
        self._over = threading.Event()
        self.asked = 0
        self.failed: list[Answer | OSError] = []

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.asked += 1
            try:
                answer = self._penstock.ask(self._url)
            except OSError as error:
                self.failed.append(error)
            else:
                if answer.status != 200:
                    self.failed.append(answer)

    def leave(self) -> None:
        self._over.set()
        self.join()


class Shop:
    """An app with a service, live on a Penstock whose engine dies when it is told to."""

    def __init__(self, penstock: Penstock, name: str = "shop", repository: Repository | None = None) -> None:
        self.penstock = penstock
        self.name = name
        self.repository = repository or penstock.add(name)
        self.version = 0
        self.says = ""
        """What its visitors must be told: that of the live release."""

    def change(self, **config: str) -> str:
        """A new commit; what its visitors will be told."""
        self.version += 1
        self.repository.commit(service(f"v{self.version}", test="true", build="{run: 'true'}", **config))
        return f"v{self.version}"

    def newest(self) -> dict[str, Any]:
        run: dict[str, Any] = self.penstock.api(f"/runs?app={self.name}&limit=1")[0]
        return run

    def releases(self) -> list[dict[str, Any]]:
        releases: list[dict[str, Any]] = self.penstock.api(f"/apps/{self.name}/releases")
        return releases

    def ask(self, path: str) -> bytes:
        return self.penstock.ask(self.penstock.urls(self.name)["app"] + path).body

    def processes(self) -> list[str]:
        """Whose run, as Penstock knows them."""
        apps = self.penstock.api("/status")["apps"]
        (mine,) = (app["processes"] for app in apps if app["name"] == self.name)
        return [process["candidate"] for process in mine]

    def counted(self) -> Counter[str]:
        """The same, and what its runs have left, by the system's own list."""
        known = self.penstock.processes()
        return Counter({name: known[name] for name in known if f"{self.name}-" in name})


# -- what is asked of it


class Order:
    """Something that makes a run go live. Where the engine dies of it, it may have to be given again."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.before = shop.newest()["id"]
        self.expected = shop.releases()[0]["version"] + 1
        """The newest release in the end."""
        self.says = self.prepare()

    def prepare(self) -> str:
        """Before anybody dies; what visitors are told in the end."""
        return self.shop.change()

    def give(self) -> None: ...

    def given(self) -> bool:
        """Whether asking has come to its end, one way or the other."""
        return True

    def run(self) -> dict[str, Any] | None:
        """The run that it made; None where it was not accepted."""
        newest = self.shop.newest()
        return newest if newest["id"] > self.before else None

    def check(self, *, died: bool) -> None: ...


class Push(Order):
    _pushing: subprocess.Popen[str] | None = None

    def give(self) -> None:
        if self._pushing is not None:
            wait_for_end(self._pushing)
        self._pushing = self.shop.repository.pushing()

    def given(self) -> bool:
        return self._pushing is not None and self._pushing.poll() is not None

    def check(self, *, died: bool) -> None:
        """Where the engine died, its connection is gone, and with it the word of how it ended."""
        assert self._pushing is not None
        assert wait_for_end(self._pushing).code == 0 or died
        assert self.shop.repository.push().said.strip() == "Everything up-to-date"


class Asked(Order):
    """By the API, of which no answer comes where the engine dies."""

    path = ""
    body: object = None

    def give(self) -> None:
        with contextlib.suppress(OSError):
            self.shop.penstock.api(self.path.format(app=self.shop.name), self.body)


class Rollback(Asked):
    path = "/apps/{app}/rollback"

    def prepare(self) -> str:
        """To and fro between the newest release and the one before it."""
        self.expected -= 1
        newest, older = self.shop.releases()[:2]
        target = older if newest["live"] else newest
        self.body = {"version": target["version"]}
        shown = self.shop.repository.git("show", f"{target['commit']}:public/index.html").stdout
        return shown.removeprefix("<h1>").removesuffix("</h1>\n")


class Configure(Asked):
    path = "/apps/{app}/variables"

    def prepare(self) -> str:
        self.body = {"variables": {"SIZE": {"value": str(self.before)}}}
        return self.shop.says

    def check(self, *, died: bool) -> None:
        assert self.shop.ask("env/SIZE") == str(self.before).encode()


class Approve(Asked):
    def prepare(self) -> str:
        says = self.shop.change(approve="true")
        assert "NOT LIVE" in self.shop.repository.push().said
        self._waits = self.shop.newest()["id"]
        self.path, self.body = f"/runs/{self._waits}/approve", {}
        return says

    def run(self) -> dict[str, Any] | None:
        newest = self.shop.newest()
        return None if newest["status"] == "awaiting" else newest


class Hook(Order):
    """A push to a repository elsewhere, of which Penstock is told."""

    def give(self) -> None:
        with contextlib.suppress(OSError):
            tell(self.shop)


def tell(shop: Shop) -> int:
    """The run that comes of it."""
    github, commit = SENDERS[0], shop.repository.git("rev-parse", "HEAD").stdout.strip()
    body = push(github, after=commit)
    url = f"{shop.penstock.client['url']}/hooks/github/{shop.name}"
    answer = shop.penstock.ask(url, body, headers=github.headers(body, commit))
    assert answer.status == 202, answer.body
    run: int = answer.json()["run"]
    return run


# -- dying


class Doomed:
    """A Penstock whose engine dies again and again, an app that is live on it, and its visitor."""

    def __init__(self, penstock: Penstock) -> None:
        self.penstock = penstock
        self.fate = penstock.fate = penstock.folder / "fate"
        penstock.start()
        self.shop = Shop(penstock)
        for _ in range(2):
            self.shop.says = self.shop.change()
            assert self.shop.repository.push().code == 0
        self.resumed: list[float] = []
        """Seconds from the start of an engine to the first new event of the run that it resumed, as a quiet
        machine would have had them."""
        self.measured: list[float] = []
        """The same as they were."""

    def passes(self, order: Order) -> list[Point]:
        """All that a run passes, but for writes and for what happens to it after its end."""
        self.fate.write_text(CENSUS)
        order.give()
        assert not self._dies_before_the_end_of(order)
        told = self.fate.read_text().splitlines()[1:]
        self.fate.unlink()
        self._check(order, died=False)
        seen: Counter[tuple[str, ...]] = Counter()
        points = []
        for point, moment in map(str.split, told):
            seen[point, moment] += 1
            points.append((point, seen[point, moment], moment))
        return [point for point in points if point[0] != WRITE]

    def dies(self, order: Order, point: str, number: int, moment: str) -> bool:
        """Whether the engine came to that point. Either way the run went live, and all of it exists once."""
        self.fate.write_text(f"{point} {number} {moment}")
        order.give()
        died = self._dies_before_the_end_of(order)
        self.fate.unlink()
        if died:
            self._resume(order)
        self._check(order, died=died)
        return died

    def _dies_before_the_end_of(self, order: Order) -> bool:
        """An engine that lives has ended what it replaced soon after the run."""
        process = self.penstock.process
        assert process is not None
        eventually(lambda: process.poll() is not None or (order.given() and self._is_settled(order)))
        return process.poll() is not None

    def _is_settled(self, order: Order) -> bool:
        try:
            run = order.run()
            over = run is not None and run["status"] not in ("queued", "running")
            return over and len(order.shop.processes()) == len(order.shop.counted()) == 1
        except (OSError, AssertionError):  # it died just now
            return False

    def _resume(self, order: Order) -> None:
        self.penstock.start()
        run = order.run()
        if run is None:  # killed before it was accepted: nobody was told of a success, and asks again
            order.give()
            eventually(order.given)
            run = order.run()
            assert run is not None
        else:
            self.penstock.finished(run["id"])
            if (seconds := self.penstock.resumed(run["id"])) is not None:
                self.measured.append(seconds)
                self.resumed.append(seconds / self.penstock.slower)

    def _check(self, order: Order, *, died: bool) -> None:
        shop, run = order.shop, order.run()
        assert run is not None
        record = self.penstock.finished(run["id"])
        assert record["run"]["status"] == "succeeded", record
        assert all(stage["status"] == "done" for stage in record["stages"])
        assert shop.ask("version") == order.says.encode()
        for edge in self.penstock.urls(shop.name)["edges"]:
            assert self.penstock.ask(edge).body == b"<h1>%s</h1>\n" % order.says.encode()
        versions = [release["version"] for release in shop.releases()]
        assert versions == list(range(order.expected, order.expected - len(versions), -1))
        candidate = f"{shop.name}-{run['id']}"
        eventually(lambda: shop.processes() == [candidate])
        eventually(lambda: shop.counted() == {f"{candidate}/web": 1})
        order.check(died=died)
        shop.says = order.says


@pytest.fixture(scope="module")
def _doomed() -> Iterator[Doomed]:
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    penstock = Penstock(folder)
    try:
        doomed = Doomed(penstock)
        yield doomed
    finally:
        if penstock.process is not None:
            penstock.stop()
        penstock.run("down", check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def doomed(_doomed: Doomed) -> Iterator[Doomed]:
    """Visited all the time; nobody may notice anything, and every engine goes on at once."""
    doomed = _doomed
    doomed.resumed, doomed.measured = [], []
    visitor = Visitor(doomed.penstock, doomed.penstock.urls("shop")["app"] + "version")
    visitor.start()
    try:
        yield doomed
    finally:
        visitor.leave()
    assert visitor.asked > 0
    assert visitor.failed == []
    told = f"after an engine's start {len(doomed.resumed)} runs went on {spread(doomed.measured)}"
    print(f"{told}, on a quiet machine {spread(doomed.resumed)}")
    assert slow(doomed.resumed) == []


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_every_write_of_a_push(doomed: Doomed, moment: str) -> None:
    died = next(number for number in count(1) if not doomed.dies(Push(doomed.shop), WRITE, number, moment))
    assert died > 10, "a run makes more writes than that"


def test_killed_at_every_effect_of_a_push(doomed: Doomed) -> None:
    """At each of its passes: a second command and a second edge have theirs."""
    points = doomed.passes(Push(doomed.shop))
    parts = {f"{owner.__name__}.{name}" for owner, names in PARTS.items() for name in names}
    assert {point for point, _, _ in points} == {*EFFECTS, *parts} - {FETCH}
    assert {("LocalRuntime.execute", 2, "before"), ("EmbeddedEdge.purge", 2, "after")} <= {*points}
    assert [point for point in points if not doomed.dies(Push(doomed.shop), *point)] == []


@pytest.mark.parametrize("order", [Rollback, Configure, Approve])
def test_killed_at_every_write_of_another_run(doomed: Doomed, order: type[Order]) -> None:
    """In turns before and after it."""
    died = next(n for n in count(1) if not doomed.dies(order(doomed.shop), WRITE, n, MOMENTS[n % 2]))
    assert died > 5, "such a run makes more writes than that"


def test_killed_in_the_switch_of_a_rollback(doomed: Doomed) -> None:
    for point in (("RouterClient.put", 1, "after"), ("EmbeddedEdge.purge", 2, "before")):
        assert doomed.dies(Rollback(doomed.shop), *point)


def test_killed_while_it_fetches(doomed: Doomed) -> None:
    """From a repository elsewhere, of whose pushes a webhook tells."""
    source = Repository(doomed.penstock.folder / "hub")
    shop = Shop(doomed.penstock, "hub", source)
    told = {"name": "hub", "repository": str(source.folder), "webhook_secret": SECRET}
    doomed.penstock.api("/apps", told)
    shop.says = shop.change()
    doomed.penstock.finished(tell(shop))
    for moment in MOMENTS:
        assert doomed.dies(Hook(shop), FETCH, 1, moment)


def eventually(condition: Callable[[], bool], *, within: float = WITHIN) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
