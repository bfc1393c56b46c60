"""People in the loop, by command line: approval, retry, redeploy, unpin, variables, over a real Penstock."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from plugins.penstock import Penstock, Repository, service, static

PRINTS = """
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({k: v for k, v in os.environ.items() if k[:2] == "X_"}).encode())

http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def environment(penstock: Penstock, app: str) -> dict[str, str]:
    """The variables the live app finds, asked of itself."""
    answer: dict[str, str] = penstock.ask(penstock.urls(app)["port"]).json()
    return answer


def printing(penstock: Penstock, name: str) -> Repository:
    """A live app that answers with its variables."""
    repository = penstock.add(name)
    repository.commit({"serve.py": PRINTS, "penstock.yaml": "web: python serve.py\n"})
    assert repository.push().code == 0
    return repository


def piped(penstock: Penstock, value: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "penstock_pipeline", *arguments, "--state", str(penstock.state)]
    return subprocess.run(command, input=value, capture_output=True, check=False, timeout=60)


def test_a_push_that_waits_is_told_everywhere_and_approve_takes_it_live(shared_penstock: Penstock) -> None:
    penstock = shared_penstock
    repository = penstock.add("gated")
    repository.commit(static("one", approve="true"))
    pushed = repository.push()
    assert (pushed.code, "NOT LIVE" in pushed.said) == (0, True)
    run = str(penstock.api("/runs?app=gated")[0]["id"])
    for command in (("status",), ("runs", "--app", "gated"), ("show", run)):
        told = penstock.run(*command).stdout
        assert f"NOT LIVE: run {run} of gated waits for approval." in told
        assert f"Whoever may manage lets it through: penstock approve {run}" in told
    followed = penstock.run("logs", "-f", run)
    assert followed.stdout.splitlines()[-1].startswith(f"=====> NOT LIVE: run {run} waits for approval")
    lines = penstock.run("approve", run).stdout.splitlines()
    assert lines[0].startswith("-----> Approve    approved by ")
    assert lines[-1].startswith("=====> http://gated.localhost")
    again = penstock.run("approve", run, check=False)
    assert (again.returncode, "there is nothing to approve" in again.stderr) == (2, True)


def test_a_detached_approval_says_how_to_follow_it(shared_penstock: Penstock) -> None:
    repository = shared_penstock.add("detached")
    repository.commit(static("one", approve="true"))
    repository.push()
    run = shared_penstock.api("/runs?app=detached")[0]["id"]
    told = shared_penstock.run("approve", str(run), "--detach").stdout
    assert told == f"run {run} is on its way; follow it: penstock logs -f {run}\n"
    assert shared_penstock.finished(run)["run"]["status"] == "succeeded"


def test_a_retry_is_a_run_that_names_the_one_before(shared_penstock: Penstock) -> None:
    with socket.socket() as outside:
        outside.bind(("127.0.0.1", 0))
        address = outside.getsockname()
        asks = f"import socket; print('tried', flush=True); socket.create_connection({address})"
        repository = shared_penstock.add("flaky")
        repository.commit(static("one", test=json.dumps(["python", "-c", asks])))
        assert repository.push().code == 1
        red = shared_penstock.api("/runs?app=flaky")[0]["id"]
        again = shared_penstock.run("retry", str(red), check=False)
        assert (again.returncode, "ended with exit code 1" in again.stdout) == (1, True)
        outside.listen()
        green = shared_penstock.run("retry", str(red + 1), "--from", "test")
    assert f"retry of run {red + 1} from test as run {red + 2}" in green.stdout
    shown = [line.split() for line in shared_penstock.run("show", str(red + 2)).stdout.splitlines()]
    assert ["retry", "of", "run", str(red + 1)] in shown
    assert shared_penstock.run("logs", str(red + 2), "--stage", "test").stdout == "tried\n"
    ended = shared_penstock.run("retry", str(red + 2), check=False)
    assert (ended.returncode, ended.stdout) == (2, "")


def test_the_log_of_a_stage_that_was_taken_over_or_never_ran_says_where_to_look(
    shared_penstock: Penstock,
) -> None:
    repository = shared_penstock.add("unbuilt")
    repository.commit(service("one", status=500, test="echo tried", health="{path: /healthz, within: 1s}"))
    assert repository.push().code == 1
    red = shared_penstock.api("/runs?app=unbuilt")[0]["id"]
    missing = shared_penstock.run("logs", str(red), "--stage", "build", check=False)
    assert (missing.returncode, missing.stderr) == (
        2,
        f" !     run {red} has no log of build; it has: test\n",
    )
    assert shared_penstock.run("retry", str(red), check=False).returncode == 1
    assert shared_penstock.run("retry", str(red + 1), check=False).returncode == 1
    for taken_over in (red + 1, red + 2):
        assert shared_penstock.run("logs", str(taken_over), "--stage", "test").stdout == "tried\n"


def test_redeploy_rollback_and_unpin_end_with_their_outcome(shared_penstock: Penstock) -> None:
    repository = shared_penstock.add("moved")
    for version in ("one", "two"):
        repository.commit(static(version))
        assert repository.push().code == 0
    assert "v3 in" in shared_penstock.run("redeploy", "moved").stdout
    assert "v1 in" in shared_penstock.run("rollback", "moved", "v1").stdout
    assert "v1 (pinned)" in shared_penstock.run("apps").stdout
    assert "v4 in" in shared_penstock.run("unpin", "moved").stdout
    refused = shared_penstock.run("unpin", "moved", check=False)
    assert (refused.returncode, refused.stdout) == (2, "")


def test_a_change_of_variables_is_a_release(shared_penstock: Penstock) -> None:
    printing(shared_penstock, "configured")
    changed = shared_penstock.run("config", "set", "configured", "X_A=b=c", "X_EMPTY=", "X_LINES=1\n2")
    assert "variables: set X_A, X_EMPTY, X_LINES" in changed.stdout
    assert environment(shared_penstock, "configured") == {"X_A": "b=c", "X_EMPTY": "", "X_LINES": "1\n2"}
    assert shared_penstock.run("config", "configured").stdout.splitlines() == [
        "NAME     VALUE",
        "X_A      b=c",
        'X_EMPTY  ""',
        'X_LINES  "1\\n2"',
    ]
    again = shared_penstock.run("config", "set", "configured", "X_A=b=c")
    assert again.stdout == "nothing changed\n"
    shared_penstock.run("config", "unset", "configured", "X_A", "X_LINES")
    assert environment(shared_penstock, "configured") == {"X_EMPTY": ""}


def test_variables_before_the_first_push_are_kept_for_it(shared_penstock: Penstock, tmp_path: Path) -> None:
    shared_penstock.add("early")
    (tmp_path / ".env").write_text("# ours\nexport X_A='one\ntwo'\nX_B=b\n")
    kept = shared_penstock.run("config", "set", "early", "X_B=c", "--file", str(tmp_path / ".env"))
    assert kept.stdout == "kept for the first push\n"
    listed = json.loads(shared_penstock.run("config", "early", "--json").stdout)
    assert {name: one["value"] for name, one in listed.items()} == {"X_A": "one\ntwo", "X_B": "c"}
    (tmp_path / ".env").write_text("X_A=b\nhunter2\n")
    refused = shared_penstock.run("config", "set", "early", "--file", str(tmp_path / ".env"), check=False)
    assert (refused.returncode, refused.stderr) == (
        2,
        f" !     {tmp_path / '.env'}:2: must read NAME=VALUE\n",
    )


def test_a_secret_comes_by_pipe_or_file_and_is_never_shown(shared_penstock: Penstock, tmp_path: Path) -> None:
    printing(shared_penstock, "sealed")
    done = piped(shared_penstock, b"hunter2hunter2\n", "secrets", "set", "sealed", "X_PIPED")
    assert done.returncode == 0, done.stderr
    key = tmp_path / "key.pem"
    key.write_text("-----BEGIN\nabcdef\n-----END\n")
    shared_penstock.run("secrets", "set", "sealed", "X_FILE", "--file", str(key))
    inline = shared_penstock.run("secrets", "set", "sealed", "X_INLINE=open-sesame")
    assert "stays in your shell's history" in inline.stderr
    assert environment(shared_penstock, "sealed") == {
        "X_PIPED": "hunter2hunter2",
        "X_FILE": "-----BEGIN\nabcdef\n-----END",
        "X_INLINE": "open-sesame",
    }
    assert shared_penstock.run("secrets", "sealed").stdout.split() == ["X_FILE", "X_INLINE", "X_PIPED"]
    for arguments in (("config", "sealed"), ("config", "sealed", "--json")):
        assert "hunter2" not in shared_penstock.run(*arguments).stdout
    assert "X_PIPED   (secret)" in shared_penstock.run("config", "sealed").stdout
    public = shared_penstock.run("config", "set", "sealed", "X_PIPED=public", check=False)
    assert (public.returncode, "X_PIPED is a secret of sealed" in public.stderr) == (2, True)
    shared_penstock.run("secrets", "unset", "sealed", "X_PIPED", "X_FILE", "X_INLINE")
    assert "sealed has no secrets" in shared_penstock.run("secrets", "sealed").stdout


def at_a_terminal(penstock: Penstock, typed: bytes, *arguments: str) -> tuple[int, bytes]:
    """The exit code and all that the screen showed to somebody who typed this once asked."""
    command = [sys.executable, "-m", "penstock_pipeline", *arguments, "--state", str(penstock.state)]
    pid, screen = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    shown = b""
    while not shown.endswith(b": "):
        shown += os.read(screen, 1024)
    os.write(screen, typed)
    with contextlib.suppress(OSError):  # EIO: the other end of the terminal is closed
        while more := os.read(screen, 1024):
            shown += more
    _, status = os.waitpid(pid, 0)
    os.close(screen)
    return os.waitstatus_to_exitcode(status), shown


def test_a_secret_is_asked_for_without_echo_and_may_be_left_with_ctrl_c(shared_penstock: Penstock) -> None:
    shared_penstock.add("asked")
    code, shown = at_a_terminal(shared_penstock, b"hunter2hunter2\n", "secrets", "set", "asked", "X_KEY")
    assert (code, b"hunter2" in shown, b"kept for the first push" in shown) == (0, False, True)
    code, _ = at_a_terminal(shared_penstock, b"\x03", "secrets", "set", "asked", "X_OTHER")
    assert code == 130
    assert shared_penstock.run("secrets", "asked").stdout.split() == ["X_KEY"]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"abc", "cannot be masked in logs"),
        (b"", "cannot be masked in logs"),
        (b"\xff\xfe\xfd\xfc", "standard input is not text in UTF-8"),
        (b"abc\0def", "cannot hold a NUL character"),
        (b"x" * 40_000, "32768"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_not_repeated(
    shared_penstock: Penstock, value: bytes, says: str
) -> None:
    if "odd" not in [app["name"] for app in shared_penstock.api("/apps")]:
        shared_penstock.add("odd")
    done = piped(shared_penstock, value, "secrets", "set", "odd", "X_ODD")
    assert done.returncode == 2
    assert says in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert len(value) < 4 or value not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("config", "set", "odd-names", "A"), "'A' has no value; write NAME=VALUE"),
        (("config", "set", "odd-names"), "give NAME=VALUE, or --file"),
        (("config", "set", "odd-names", "a\x1b[2J\nb=c"), r"variable 'a\x1b[2J\nb': use letters"),
        (("config", "set", "odd-names", "PORT=1"), "not an app's to set"),
        (("config", "unset", "odd-names", "GONE"), "there is no variable GONE; there are: none"),
        (("config", "set", "odd-names", "A=\udcff"), "UTF-8"),
        (
            ("config", "set", "odd-names", "--file", "/none"),
            "/none cannot be read: No such file or directory",
        ),
        (("secrets", "set", "odd-names", "A", "--file", "/"), "/ cannot be read: Is a directory"),
        (("config",), "Missing argument 'APP'"),
    ],
)
def test_a_wrong_change_is_told(shared_penstock: Penstock, arguments: tuple[str, ...], says: str) -> None:
    if "odd-names" not in [app["name"] for app in shared_penstock.api("/apps")]:
        shared_penstock.add("odd-names")
    done = shared_penstock.run(*arguments, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "\x1b" not in done.stderr
