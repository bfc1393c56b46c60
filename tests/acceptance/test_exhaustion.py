"""What the machine runs out of: told in a line, survived, and nothing that was accepted is lost."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from plugins.dying import EFFECTS, FETCH, FILLER, FULL, fill
from plugins.penstock import Answer, Penstock, Repository, service, static, up, wait_for_end
from plugins.rights import as_root

SECRET = "a secret of thirty-two characters"


def until(condition: Callable[[], object], *, within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Hub:
    """A repository elsewhere, whose forge tells Penstock of its pushes."""

    def __init__(self, penstock: Penstock, name: str = "hub") -> None:
        self._penstock = penstock
        self.name = name
        self.repository = Repository(penstock.folder / name)
        self.repository.commit(static("one"))
        told = {"name": name, "repository": str(self.repository.folder), "webhook_secret": SECRET}
        penstock.api("/apps", told)

    def tells(self, delivery: str) -> Answer:
        commit = self.repository.git("rev-parse", "HEAD").stdout.strip()
        body = json.dumps({"ref": "refs/heads/main", "after": commit, "before": "1" * 40}).encode()
        headers = {
            "X-Hub-Signature-256": f"sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": delivery,
        }
        return self._penstock.ask(
            f"{self._penstock.client['url']}/hooks/github/{self.name}", body, headers=headers
        )


# -- the disk


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """A small disk of its own for a folder."""
    folder.mkdir()
    options = f"size=32m,mode=0700,uid={os.getuid()},gid={os.getgid()}"
    as_root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield
    finally:
        as_root("umount", "--lazy", str(folder))


@pytest.fixture(scope="module")
def on_a_small_disk() -> Iterator[Penstock]:
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    penstock = Penstock(folder)
    penstock.fate = folder / "fate"
    try:
        with mounted(penstock.state), penstock:
            yield penstock
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_room(penstock: Penstock) -> None:
    (penstock.state / FILLER).unlink(missing_ok=True)


def said_of(penstock: Penstock) -> str:
    """All that the engine has said, in its log or, where the disk takes no more, to who started it."""
    return penstock.log() + (penstock.folder / "up.log").read_text()


def version(penstock: Penstock, app: str) -> str:
    return penstock.ask(f"{penstock.urls(app)['app']}version").body.decode()


def test_a_full_disk_accepts_nothing_and_says_so(on_a_small_disk: Penstock) -> None:
    penstock = on_a_small_disk
    hub, repository = Hub(penstock), penstock.add("shop")
    repository.commit(service("one"))
    assert repository.push().code == 0
    fill(penstock.state)
    try:
        told = hub.tells("d1")
        assert told.status == 503
        assert "make room on its disk" in told.json()["error"]
        repository.commit(service("two"))
        pushed = repository.push()
        assert pushed.code != 0
        assert "No space left on device" in pushed.said
        added = penstock.run("apps", "add", "other", check=False)
        assert added.returncode == 3
        assert "No space left on device" in added.stderr
        assert version(penstock, "shop") == "one"
        assert penstock.ask(f"{penstock.client['url']}/sign-in").status == 200
    finally:
        make_room(penstock)
    assert penstock.finished(hub.tells("d1").json()["run"])["run"]["status"] == "succeeded"
    assert repository.push().code == 0
    assert version(penstock, "shop") == "two"
    penstock.add("other")
    assert "Traceback" not in said_of(penstock)


@pytest.fixture(scope="module")
def busy(on_a_small_disk: Penstock) -> Repository:
    repository = on_a_small_disk.add("busy")
    repository.commit(service("first"))
    assert repository.push().code == 0
    return repository


@pytest.mark.parametrize(
    "effect", [effect for effect in EFFECTS if effect not in (FETCH, "EmbeddedEdge.purge")]
)
def test_a_run_that_finds_the_disk_full_goes_on_once_there_is_room(
    on_a_small_disk: Penstock, busy: Repository, effect: str
) -> None:
    penstock = on_a_small_disk
    before, told = version(penstock, "busy"), len(said_of(penstock))
    busy.commit(service(effect, test="echo tested", build="{run: echo built}"))
    fate = penstock.folder / "fate"
    fate.write_text(f"{effect} 1 before {FULL}")
    pushing = busy.pushing()
    try:
        until(lambda: not fate.exists() and (len(said_of(penstock)) > told or pushing.poll() is not None))
        assert version(penstock, "busy") in (before, effect)
    finally:
        make_room(penstock)
    pushed = wait_for_end(pushing)
    assert pushed.code == 0, pushed.said
    assert version(penstock, "busy") == effect
    for edge in penstock.urls("busy")["edges"]:
        assert penstock.ask(edge).body == f"<h1>{effect}</h1>\n".encode()
    releases = penstock.api("/apps/busy/releases")
    assert len({release["run"] for release in releases}) == len(releases) == releases[0]["version"]


@pytest.mark.usefixtures("busy")
def test_what_a_full_disk_does_to_up_is_told_in_a_line(on_a_small_disk: Penstock) -> None:
    penstock = on_a_small_disk
    app = penstock.urls("busy")["app"]
    penstock.stop()
    fill(penstock.state)
    try:
        code, said = up(penstock.state)
        assert code == 3
        assert "make room on its disk" in said or "No space left on device" in said
        assert "Traceback" not in said
        assert penstock.ask(f"{app}version").status == 200
    finally:
        make_room(penstock)
        penstock.start()
    assert penstock.api("/runs")[0]["status"] == "succeeded"


# -- the database


@pytest.fixture(scope="module")
def deployed() -> Iterator[Penstock]:
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    try:
        with Penstock(folder) as penstock:
            repository = penstock.add("shop")
            repository.commit(static("one"))
            assert repository.push().code == 0
            yield penstock
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- the clock


@pytest.fixture
def clock() -> Iterator[tuple[Penstock, Path]]:
    """A Penstock, and the file that says by how many seconds its clock is wrong."""
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    penstock = Penstock(folder)
    penstock.clock = folder / "clock"
    penstock.clock.write_text("0")
    try:
        with penstock:
            yield penstock, penstock.clock
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_clock_that_jumps_changes_no_order_and_keeps_nobody_out(clock: tuple[Penstock, Path]) -> None:
    penstock, wrong = clock
    hub, repository = Hub(penstock), penstock.add("shop")
    for number, seconds in enumerate((0, -86400, 86400, -3600)):
        wrong.write_text(str(seconds))
        repository.commit(service(f"text {number}", test="true"))
        pushed = repository.push()
        assert pushed.code == 0, pushed.said
        assert version(penstock, "shop") == f"text {number}"
        assert penstock.ask(penstock.urls("shop")["edges"][0]).body == f"<h1>text {number}</h1>\n".encode()
        told = hub.tells("same")
        assert told.json()["duplicate"] is (number > 0)
        penstock.finished(told.json()["run"])
    runs = penstock.api("/runs")
    assert [run["id"] for run in runs] == sorted((run["id"] for run in runs), reverse=True)
    assert [release["version"] for release in penstock.api("/apps/shop/releases")] == [4, 3, 2, 1]
    shown = [penstock.run("show", str(run["id"])).stdout for run in runs]
    assert not any("-" in word and word.strip("-")[:1].isdigit() for one in shown for word in one.split("  "))


def test_an_engine_that_starts_with_its_clock_set_back_adopts_what_runs(clock: tuple[Penstock, Path]) -> None:
    penstock, wrong = clock
    repository = penstock.add("shop")
    repository.commit(service("one"))
    repository.push()
    before = penstock.api("/status")["apps"][0]["processes"]
    penstock.kill()
    wrong.write_text("-86400")
    penstock.start()
    assert penstock.api("/status")["apps"][0]["processes"] == before
    rolled = repository.commit(service("two"))
    assert repository.push().code == 0
    assert penstock.api("/runs")[0]["commit"] == rolled


def database(penstock: Penstock) -> Path:
    return penstock.state / "penstock.db"


@contextlib.contextmanager
def immutable(files: Sequence[Path]) -> Iterator[None]:
    """Files that nobody can write, not even through what is open already and not even root."""
    as_root("chattr", "+i", *map(str, files))
    try:
        yield
    finally:
        as_root("chattr", "-i", *map(str, files))


def test_a_database_that_becomes_read_only_accepts_nothing_until_it_is_not(deployed: Penstock) -> None:
    hub = Hub(deployed, "readonly")
    with immutable([*deployed.state.glob("penstock.db*")]):
        told = hub.tells("d1")
        assert told.status == 503
        assert str(database(deployed)) in told.json()["error"]
        assert deployed.ask(deployed.urls("shop")["app"]).body == b"<h1>one</h1>\n"
        assert deployed.run("runs", check=False).returncode == 0
    again = hub.tells("d1")
    assert again.status == 202
    assert deployed.finished(again.json()["run"])["run"]["status"] == "succeeded"


def test_a_run_under_way_waits_for_a_database_that_became_read_only(deployed: Penstock) -> None:
    repository = deployed.add("waiting")
    repository.commit(service("first"))
    assert repository.push().code == 0
    gate, said = deployed.folder / "gate", len(deployed.log())
    repository.commit(service("second", test=f"while ! test -e {gate}; do sleep 0.05; done"))
    pushing = repository.pushing()
    until(lambda: [run["status"] for run in deployed.api("/runs?app=waiting&limit=1")] == ["running"])
    with immutable([*deployed.state.glob("penstock.db*")]):
        gate.touch()
        until(lambda: "the store is out of reach, waiting for it" in deployed.log()[said:])
        assert version(deployed, "waiting") == "first"
        assert pushing.poll() is None
    pushed = wait_for_end(pushing)
    assert pushed.code == 0, pushed.said
    assert version(deployed, "waiting") == "second"
    assert [one["version"] for one in deployed.api("/apps/waiting/releases")] == [2, 1]
    news = deployed.log()[said:]
    assert news.count("the store is out of reach, waiting for it") == 1
    assert str(database(deployed)) in news
    assert "Traceback" not in news


def test_up_over_a_read_only_database_is_told_in_a_line(deployed: Penstock, tmp_path: Path) -> None:
    file = copied(deployed.state, tmp_path / "state")
    with immutable([file]):
        code, said = up(file.parent)
        assert deployed.ask(deployed.urls("shop")["app"]).status == 200
    assert code == 3
    assert f"the store {file} cannot be used" in said
    assert "let this user write to it" in said
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 2, said


def test_a_database_that_another_program_holds_is_waited_for_and_told(deployed: Penstock) -> None:
    hub = Hub(deployed, "locked")
    with contextlib.closing(sqlite3.connect(database(deployed), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        told = hub.tells("d1")
        assert told.status == 503
        assert "another program holds it" in told.json()["error"]
        other.execute("ROLLBACK")
    assert hub.tells("d1").status == 202


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def scribble(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"nothing that SQLite knows")


def age(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (Path.unlink, "is lost or empty"),
        (lambda file: os.truncate(file, 0), "is lost or empty"),
        (cut, "it is damaged"),
        (scribble, "it is damaged"),
        (age, "was written by a newer Penstock"),
    ],
    ids=["lost", "empty", "cut", "overwritten", "newer"],
)
def test_a_database_that_cannot_be_used_is_told_at_up_and_left_as_it_is(
    deployed: Penstock, tmp_path: Path, damage: Callable[[Path], None], told: str
) -> None:
    file = copied(deployed.state, tmp_path / "state")
    damage(file)
    left = file.read_bytes() if file.exists() else None
    code, said = up(file.parent)
    assert code == 3
    assert str(file) in said
    assert told in said
    assert "restore the state folder" in said
    assert "Traceback" not in said
    assert (file.read_bytes() if file.exists() else None) == left


def copied(state: Path, to: Path) -> Path:
    """The state folder as it is now, without who runs over it; its database."""
    shutil.copytree(state / "repositories", to / "repositories")
    with (
        contextlib.closing(sqlite3.connect(state / "penstock.db")) as here,
        contextlib.closing(sqlite3.connect(to / "penstock.db")) as there,
    ):
        here.backup(there)
    return to / "penstock.db"


# -- open files


@pytest.fixture(scope="module")
def narrow() -> Iterator[Penstock]:
    """A Penstock whose processes may have 200 files open each."""
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    penstock = Penstock(folder)
    penstock.files = 200
    try:
        with penstock:
            yield penstock
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def silent(url: str, count: int, said: bytes = b"") -> Iterator[None]:
    """Who connects and says nothing, or this much and no more, many times over."""
    port = urlsplit(url).port
    with contextlib.ExitStack() as held:
        for _ in range(count):
            connection = held.enter_context(socket.socket())
            connection.setblocking(bool(said))
            connection.connect_ex(("127.0.0.1", port))
            if said:
                connection.sendall(said)
        yield


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def front_pids(penstock: Penstock) -> list[int]:
    told = json.loads((penstock.state / "front" / "front.json").read_text())
    return [told["pid"], *told["children"].values()]


def test_a_flood_of_silent_connections_stops_no_run_and_is_told_once(narrow: Penstock) -> None:
    repository = narrow.add("flooded")
    gate = narrow.folder / "gate"
    repository.commit(service("one", test=f"while ! test -e {gate}; do sleep 0.05; done"))
    pushing = repository.pushing()
    until(lambda: [run["status"] for run in narrow.api("/runs")] == ["running"])
    before = open_files(narrow.client["pid"])
    with silent(narrow.client["url"], 300):
        until(lambda: "others wait until one is closed" in narrow.log())
        assert open_files(narrow.client["pid"]) < 150
        gate.touch()
        pushed = wait_for_end(pushing)
        assert pushed.code == 0, pushed.said
    assert version(narrow, "flooded") == "one"
    until(lambda: open_files(narrow.client["pid"]) <= before)
    assert narrow.log().count("others wait until one is closed") == 1
    assert "Traceback" not in said_of(narrow)


def half(path: str, *lines: str) -> bytes:
    """A request whose body ends after four bytes."""
    head = (f"POST {path} HTTP/1.1", "Host: localhost", "Content-Length: 1000", *lines, "", "half")
    return "\r\n".join(head).encode()


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/sign-in", ("Sec-Fetch-Site: same-origin", "Content-Type: application/x-www-form-urlencoded")),
        ("/api/apps", ("Authorization: Bearer {token}", "Content-Type: application/json")),
    ],
    ids=["form", "api"],
)
def test_a_flood_of_half_sent_bodies_keeps_nobody_else_out(
    narrow: Penstock, path: str, lines: Sequence[str]
) -> None:
    client, said = narrow.client, len(said_of(narrow))
    body = half(path, *(line.format(token=client["token"]) for line in lines))
    before = open_files(client["pid"])
    with silent(client["url"], 100, body):
        until(lambda: open_files(client["pid"]) > 60)
        assert narrow.ask(f"{client['url']}/sign-in").status == 200  # within its time of 30 s
    until(lambda: open_files(client["pid"]) < before + 10)  # it may open some of its own meanwhile
    assert "Traceback" not in said_of(narrow)[said:]


def test_pushes_beyond_the_room_there_is_wait_for_their_turn(narrow: Penstock) -> None:
    repository = narrow.add("crowded")
    repository.commit(static("one"))
    pushing = [repository.pushing("penstock", f"main:refs/heads/branch-{n}") for n in range(24)]
    ended = [wait_for_end(one) for one in pushing]
    assert [one.said for one in ended if one.code] == []


def test_a_router_full_of_silent_visitors_serves_when_they_have_left(narrow: Penstock) -> None:
    repository = narrow.add("visited")
    repository.commit(service("one"))
    assert repository.push().code == 0
    urls = narrow.urls("visited")
    router, edge = urls["app"], urls["edges"][0]
    log = narrow.state / "front" / "front.log"
    said = log.stat().st_size
    with silent(router, 300), silent(edge, 300):
        pass
    until(lambda: answered(narrow, f"{router}version") == b"one")
    until(lambda: answered(narrow, edge) == b"<h1>one</h1>\n")
    assert log.stat().st_size - said < 10_000
    repository.commit(service("two"))
    assert repository.push().code == 0


def answered(penstock: Penstock, url: str) -> bytes | None:
    try:
        return penstock.ask(url).body
    except OSError:
        return None


def break_off(penstock: Penstock, path: str) -> None:
    """Sends half a request and leaves."""
    where = urlsplit(penstock.client["url"])
    with socket.create_connection(("127.0.0.1", where.port or 0)) as connection:
        connection.sendall(half(path))


def test_requests_of_all_kinds_leave_no_file_open(narrow: Penstock) -> None:
    hub, repository = Hub(narrow, "leaking"), narrow.add("leaks")
    repository.commit(static("one"))
    assert repository.push().code == 0
    narrow.finished(hub.tells("first").json()["run"])
    app = narrow.urls("leaks")["app"]
    pids = [narrow.client["pid"], *front_pids(narrow)]
    before = {pid: open_files(pid) for pid in pids}
    for number in range(60):
        assert hub.tells(f"again {number % 2}").status in (200, 202, 400)
        break_off(narrow, "/hooks/github/leaking")
        break_off(narrow, "/git/leaks/git-receive-pack")
        assert narrow.ask(app).status == 200
    for number in range(5):
        repository.commit(static(str(number)))
        assert repository.push().code == 0
    until(lambda: all(open_files(pid) <= before[pid] + 2 for pid in pids))
