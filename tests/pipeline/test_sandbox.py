"""Repository code attacks whatever runs it. What only a sandbox can refuse is tried in one; the rest without
one too."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import psutil
import pytest
from plugins.house import eventually
from plugins.local_bench import Bench, bench, candidate, needs_bubblewrap

from penstock_pipeline.errors import Invalid, StageFailed
from penstock_pipeline.runtimes import cgroup, sandbox
from penstock_pipeline.runtimes.local import LocalRuntime
from penstock_pipeline.runtimes.process import end_tree

SECRET = "only-penstock-knows"

MIB = 1024 * 1024
LIMITS = {"limit_cpu": 1, "limit_file_size": MIB, "limit_processes": 32, "limit_memory": 512 * MIB}


@pytest.fixture(params=["none", "bubblewrap"])
async def house(request: pytest.FixtureRequest, tree: Path, short_tmp: Path) -> AsyncIterator[Bench]:
    if request.param == "bubblewrap":
        needs_bubblewrap()
    async with bench(short_tmp / "state", sandbox=request.param, **LIMITS) as made:
        yield made


@pytest.fixture
async def sandboxed(tree: Path, short_tmp: Path) -> AsyncIterator[Bench]:
    needs_bubblewrap()
    async with bench(short_tmp / "state", sandbox="bubblewrap") as made:
        yield made


@pytest.fixture
def tree(short_tmp: Path) -> Path:
    folder = short_tmp / "state/work/1/tree"
    folder.mkdir(parents=True)
    return folder


async def execute(engine: LocalRuntime, command: str, tree: Path, **env: str) -> tuple[int, str]:
    chunks: list[bytes] = []
    code = await engine.execute(
        command, name="shop-1-test", tree=tree, env=env, output=chunks.append, timeout=60
    )
    return code, b"".join(chunks).decode()


async def python(house: Bench, program: str, tree: Path) -> tuple[int, str]:
    (tree / "attack.py").write_text(program)
    return await execute(house.engine(), "exec python attack.py", tree)


# Files


async def test_nothing_of_penstock_and_of_others_can_be_read(sandboxed: Bench, tree: Path) -> None:
    state = sandboxed.settings.state
    private = [*("token.key", "secrets.key", "client.json", "penstock.db", "hook.sock", "front/router.sock")]
    private += ["runtime/blog-7/root/settings.py", "repositories/shop.git/config", "work/2/tree/theirs"]
    files = [state / name for name in private] + [state.parent / "of-the-user"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SECRET)
    command = "".join(f"cat {file} && echo opened\n" for file in files)
    of_the_system = "find /etc/shadow /etc/ssh /etc/ssl/private /run /srv /sys -type f"
    command += f"find {state}; ls -a {Path.home()}; {of_the_system} -exec echo opened {{}} ';'"
    _, said = await execute(sandboxed.engine(), command, tree)
    assert SECRET not in said
    assert "opened" not in said
    assert not {".ssh", ".bashrc", ".profile"} & set(said.split())


async def test_only_its_own_folders_can_be_written_to(sandboxed: Bench, tree: Path) -> None:
    outside = ("/", "/usr/", "/etc/", "/var/", f"{sys.prefix}/", f"{sandboxed.settings.state}/")
    inside = ("$PWD/", "$HOME/", "$TMPDIR/", "/tmp/", "/var/tmp/", "/dev/shm/")
    tries = [f"echo >\"{folder}left-here\" && echo 'wrote {folder}'" for folder in (*outside, *inside)]
    _, said = await execute(sandboxed.engine(), "{ " + "\n".join(tries) + "\n} 2>/dev/null", tree)
    assert said.splitlines() == [f"wrote {folder}" for folder in inside]
    assert (tree / "left-here").exists()
    assert not Path("/tmp/left-here").exists()


async def test_what_is_shown_can_be_read_and_not_written_to(short_tmp: Path, tree: Path) -> None:
    needs_bubblewrap()
    tools = short_tmp / "tools"
    tools.mkdir()
    (tools / "version").write_text("a compiler")
    async with bench(short_tmp / "state", sandbox="bubblewrap", sandbox_shows=[tools]) as house:
        command = f"cat {tools}/version; echo broken >{tools}/version"
        code, said = await execute(house.engine(), command, tree)
    assert code != 0
    assert said.startswith("a compiler")
    assert (tools / "version").read_text() == "a compiler"


async def test_the_state_may_lie_where_a_sandbox_has_a_folder_of_its_own() -> None:
    needs_bubblewrap()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        tree, secret = Path(made, "state/work/1/tree"), Path(made, "state/token.key")
        tree.mkdir(parents=True)
        secret.write_text(SECRET)
        async with bench(Path(made, "state"), sandbox="bubblewrap") as house:
            code, said = await execute(house.engine(), f"echo built >result && ! cat {secret}", tree)
        assert (code, (tree / "result").read_text()) == (0, "built\n")
        assert SECRET not in said


async def test_a_state_folder_behind_a_link_is_hidden_by_its_own_name_too(short_tmp: Path) -> None:
    needs_bubblewrap()
    shown = short_tmp / "shown"
    (shown / "disk").mkdir(parents=True)
    for link in (short_tmp / "state", shown / "state"):
        link.symlink_to(shown / "disk")
        async with bench(link, sandbox="bubblewrap", sandbox_shows=[shown]) as house:
            (link / "token.key").write_text(SECRET)
            tree = house.settings.state / "work/1/tree"
            tree.mkdir(parents=True, exist_ok=True)
            command = f"echo built >result; cat {link}/token.key {shown}/disk/token.key; cat result"
            code, said = await execute(house.engine(), command, tree)
        assert code == 0
        assert said.endswith("built\n")
        assert SECRET not in said


async def test_a_python_behind_a_link_runs(
    sandboxed: Bench, tree: Path, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a virtual environment made with it, the links lead past the path that its base is known by."""
    base, venv = short_tmp / "python", short_tmp / "venv"
    base.symlink_to(sys.base_prefix)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(Path(sys.executable).resolve())
    (venv / "pyvenv.cfg").write_text(f"home = {base}/bin\n")
    for name, path in (("prefix", venv), ("base_prefix", base), ("executable", venv / "bin/python")):
        monkeypatch.setattr(sys, name, str(path))
    code, said = await execute(sandboxed.engine(), "python -c 'import sys; print(sys.prefix)'", tree)
    assert (code, said) == (0, f"{venv}\n")


async def test_folders_that_nobody_may_write_to_are_cleared_away(tree: Path) -> None:
    """As Go leaves them in HOME. Root may write to them, so root's powers are given up."""
    powerless = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []
    script = f"""
import asyncio
from pathlib import Path
from plugins.local_bench import bench

async def main():
    tree = Path({str(tree)!r})
    async with bench(tree.parents[2], sandbox="none", limit_processes=512) as house:
        command = "mkdir -p $HOME/go/mod && touch $HOME/go/mod/file && chmod 555 $HOME/go/mod $HOME/go"
        await house.engine().execute(
            command, name="shop-1-build", tree=tree, env={{}}, output=print, timeout=60
        )

asyncio.run(main())
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    command = [*powerless, sys.executable, "-c", script]
    await asyncio.to_thread(subprocess.run, command, env=env, check=True)
    assert list((tree.parents[2] / "runtime/executing").iterdir()) == []


# Processes


async def test_it_sees_and_ends_only_its_own_processes(sandboxed: Bench, tree: Path) -> None:
    engine = sandboxed.engine()
    await engine.start(candidate("blog-1"))
    await engine.healthy(candidate("blog-1"))
    others = {process.pid for process in sandboxed.processes()} | {os.getpid()}
    program = f"""
import ctypes, os, signal, subprocess
others = {others!r}
assert os.readlink("/proc/self/ns/pid") != {str(Path("/proc/self/ns/pid").readlink())!r}
seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
print(len(seen), *(open(f"/proc/{{pid}}/environ").read().count({SECRET!r}) for pid in seen))
attach = [ctypes.CDLL(None).ptrace(16, pid, 0, 0) for pid in others - set(seen)]
print(set(attach))
own = subprocess.Popen(["sleep", "600"])
os.kill(-1, signal.SIGKILL)
print(own.wait())
"""
    code, said = await python(sandboxed, program, tree)
    assert (code, said.splitlines()) == (0, ["2 0 0", "{-1}", "-9"])
    assert all(psutil.pid_exists(pid) for pid in others)
    assert await engine.healthy(candidate("blog-1")) == 1


async def test_it_holds_no_capabilities_and_cannot_gain_any(sandboxed: Bench, tree: Path) -> None:
    _, said = await execute(sandboxed.engine(), "grep -E 'Cap|NoNewPrivs' /proc/self/status", tree)
    told = dict(line.split(":\t") for line in said.splitlines())
    assert told.pop("NoNewPrivs") == "1"
    assert {int(value, 16) for value in told.values()} == {0}


async def test_what_starts_a_sandbox_does_not_know_the_secrets_of_what_runs_in_it(
    sandboxed: Bench, tree: Path
) -> None:
    engine = sandboxed.engine()
    one = candidate(processes={"worker": 'echo "$WORD"; exec sleep 600'}, WORD=SECRET)
    await engine.start(one)
    log = sandboxed.settings.state / "runtime/shop-1/worker.log"
    await eventually(lambda: log.read_text() == f"{SECRET}\n")
    knows = [process.name() for process in sandboxed.processes() if SECRET in process.environ().values()]
    assert knows == ["sleep"]
    assert not any(SECRET in part for process in sandboxed.processes() for part in process.cmdline())


async def test_nothing_that_is_open_here_is_open_there(house: Bench, tree: Path) -> None:
    with socket.socket() as listener:
        listener.listen()
        listener.set_inheritable(True)
        _, said = await python(house, "import os; print(os.listdir('/proc/self/fd'))", tree)
    assert said == "['0', '1', '2', '3']\n"  # 3 is the folder that is listed


DAEMON = """
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for descriptor in (0, 1, 2):
            os.close(descriptor)
        os.execve("/bin/sleep", ["sleep", "86397"], {})
    os._exit(0)
os.wait()
"""


def daemons() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "86397"]]


async def test_a_daemon_that_hides_is_gone_when_the_command_ends(house: Bench, tree: Path) -> None:
    if house.settings.sandbox == "none" and cgroup.available() is None:
        pytest.skip("without bubblewrap and control groups, who clears its environment is not found")
    assert await python(house, DAEMON, tree) == (0, "")
    assert daemons() == []


async def test_an_app_in_a_sandbox_may_end_in_good_order(sandboxed: Bench) -> None:
    engine = sandboxed.engine()
    polite = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    one = candidate(processes={"worker": polite})
    await engine.start(one)
    log = sandboxed.settings.state / "runtime/shop-1/worker.log"
    await eventually(lambda: log.read_text() == "ready\n")
    await engine.retire("shop", keep=None)
    kept = sandboxed.settings.state / "logs/apps/shop/shop-1-worker.log"
    assert kept.read_text().endswith("bye\n")


STARTER = """
import os, signal, sys
from pathlib import Path
from penstock_pipeline.runtimes import sandbox
from penstock_pipeline.runtimes.process import MARK, Job, Limits, gated
tree, state = map(Path, sys.argv[1:3])
own = state / "runtime/shop-1"
for name in ("home", "tmp"):
    (own / name).mkdir(parents=True)
around = sandbox.choose("bubblewrap").around(tree, own, hidden=state)
env = {"PATH": os.environ["PATH"], MARK: str(own / "web")}
job = Job("touch ran; exec sleep 600", tree, env, Limits(256), around)
with gated(job, 1, outlives=sys.argv[3] == "app"):
    if sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
while not (tree / "ran").exists():
    pass
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("kind", "moment", "stays"),
    [("app", "before", False), ("app", "after", True), ("command", "after", False)],
)
async def test_when_the_engine_is_killed_only_an_app_stays_that_was_let_go(
    sandboxed: Bench, tree: Path, kind: str, moment: str, stays: bool
) -> None:
    arguments = (str(tree), str(sandboxed.settings.state), kind, moment)
    starter = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTER, *arguments, stdout=asyncio.subprocess.DEVNULL
    )
    assert await starter.wait() == -signal.SIGKILL
    assert (tree / "ran").exists() == (moment == "after")
    if stays:
        assert "sleep" in [process.name() for process in sandboxed.processes()]
        await end_tree(None, str(sandboxed.settings.state / "runtime/shop-1/web"), patience=1)
    await eventually(lambda: not sandboxed.processes())


async def test_the_end_of_the_process_that_is_known_is_the_end_of_all(sandboxed: Bench) -> None:
    engine = sandboxed.engine()
    one = candidate(mode="daemon")
    await engine.start(one)
    await engine.healthy(one)
    [state] = await engine.observe()
    assert len(sandboxed.servers()) == 2
    assert state.pid
    os.kill(state.pid, signal.SIGKILL)
    await eventually(lambda: not sandboxed.processes())


# Limits


async def test_too_much_processor_time_is_told(house: Bench, tree: Path) -> None:
    with pytest.raises(StageFailed, match=r"used more than 1 s of processor time \(PENSTOCK_LIMIT_CPU\)"):
        await python(house, "while True: pass", tree)


async def test_too_large_a_file_is_told(house: Bench, tree: Path) -> None:
    with pytest.raises(StageFailed, match=r"wrote more than 1048576 bytes into a file \(PENSTOCK_LIMIT_FILE"):
        await execute(house.engine(), "head -c 2000000 /dev/zero >large", tree)
    assert (tree / "large").stat().st_size == 1024 * 1024


async def test_too_much_memory_ends_red_and_says_why(house: Bench, tree: Path) -> None:
    code, said = await python(house, "b'x' * 1024**3", tree)
    assert code == 1
    assert said.endswith("MemoryError\n")


BOMB = """
import os, sys, time
first = os.getpid()
for depth in range(9):  # 512 processes at the most, should nothing hold it
    try:
        os.fork()
    except BlockingIOError:
        open("full", "w").close()
        break
if os.getpid() == first:
    while not os.path.exists("full"):
        time.sleep(0.01)
    sys.exit(3)
while True:
    try:
        os.fork()
    except BlockingIOError:
        time.sleep(0.001)
"""


async def outcome(executing: Awaitable[tuple[int, str]]) -> str:
    try:
        return f"code {(await executing)[0]}"
    except StageFailed as error:
        return str(error)


async def test_a_fork_bomb_is_held_and_told_and_nothing_of_it_is_left(house: Bench, tree: Path) -> None:
    if not sandbox.choose(house.settings.sandbox).counts_processes:
        pytest.skip(house.engine().isolation)
    told = await outcome(python(house, BOMB, tree))
    assert told.endswith("wanted more than 32 processes at once (PENSTOCK_LIMIT_PROCESSES)") or (
        cgroup.available() is None and told == "code 3"  # RLIMIT_NPROC holds it too, and tells nobody
    )
    assert house.processes() == []


# What it is


def test_it_says_which_it_is_and_why() -> None:
    assert str(sandbox.choose("none")).startswith("process group and limits (PENSTOCK_SANDBOX is none)")
    needs_bubblewrap()
    assert str(sandbox.choose("bubblewrap")).startswith("bubblewrap")


def test_where_there_is_no_bubblewrap_it_is_done_without_unless_it_is_demanded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "(bwrap is not installed)" in str(sandbox.choose.__wrapped__("auto"))
    with pytest.raises(Invalid, match="bwrap is not installed; install bubblewrap"):
        sandbox.choose.__wrapped__("bubblewrap")


def test_a_bubblewrap_that_cannot_do_it_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2; exit 1\n")
    bwrap.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    said = str(sandbox.choose.__wrapped__("auto"))
    assert "(bwrap does not work here: bwrap: No permissions to create new namespace)" in said
