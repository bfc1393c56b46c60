"""What programs print reaches nobody but as plain text: at the push, in commands, in the dashboard."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from plugins.attacked import Attacked
from plugins.penstock import Penstock

HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

EVIL = {
    "colours": rb"\033[31mred\033[0m",
    "a title that never ends": rb"\033]0;title",
    "a link (OSC 8)": rb"\033]8;;http://evil\033\\\\link\033]8;;\033\\\\",
    "the clipboard (OSC 52)": rb"\033]52;c;aGVsbG8=\007",
    "controls of one byte (C1)": rb"\302\23331m \302\235 x",
    "a line written over": rb"good\r-----> Deploy     v99 takes traffic",
    "fake lines": rb"-----> Deploy     v99 takes traffic\n !     fake\n=====> http://evil/",
    "text turned around": rb"\342\200\256evil\342\201\246",
    "bytes that are no UTF-8": rb"\377\376\300\200",
    "NUL, bell and backspace": rb"a\000b\007c\010d",
}


def prints(what: bytes) -> str:
    """A test command that prints this and is red."""
    return f"test: |\n  printf '{what.decode()}\\n'; exit 1\n"


def plain(said: str) -> bool:
    return not HARMFUL.search(said)


@pytest.mark.parametrize("what", EVIL.values(), ids=EVIL)
def test_a_red_test_that_prints(attacked: Attacked, what: bytes) -> None:
    pushed = attacked.push_files({"penstock.yaml": prints(what)})
    assert pushed.code == 1
    assert "Test: `printf" in pushed.said
    assert plain(pushed.said), ascii(pushed.said)
    assert not re.search(r"(?m)^(-----> Deploy|=====>| !     fake)", pushed.said)


def test_a_line_of_megabytes_without_an_end(attacked: Attacked) -> None:
    flood = "test: |\n  head -c 3000000 /dev/zero | tr '\\\\0' x; exit 1\n".replace("\\\\", "\\")
    pushed = attacked.push_files({"penstock.yaml": flood})
    assert pushed.code == 1
    assert len(pushed.said) < 500_000


def test_all_of_that_together_is_plain_in_commands_and_in_the_dashboard(attacked: Attacked) -> None:
    attacked.push_files({"penstock.yaml": prints(b" ".join(EVIL.values()))})
    run = attacked.penstock.api("/runs?app=shop&limit=1")[0]["id"]
    for command in (["logs", run], ["logs", run, "--json"], ["show", run]):
        told = attacked.penstock.run(*map(str, command)).stdout
        assert plain(told), (command, ascii(told))
    assert plain(on_a_terminal(attacked.penstock, "logs", str(run), "--stage", "test"))
    page = attacked.ask(f"GET /runs/{run}", f"Cookie: {session(attacked)}").body.decode()
    assert plain(page)
    raw = attacked.ask(f"GET /runs/{run}/logs/test", f"Cookie: {session(attacked)}")
    assert raw.headers["x-content-type-options"] == "nosniff"
    assert raw.headers["content-type"].startswith("text/plain")


def on_a_terminal(penstock: Penstock, *arguments: str) -> str:
    """What a command shows where its output is a terminal; without the line ends that terminals make."""
    command = [sys.executable, "-m", "penstock_pipeline", *arguments, "--state", str(penstock.state)]
    told = subprocess.run(
        ["script", "--quiet", "--return", "--command", " ".join(command), "/dev/null"],
        capture_output=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin", "TERM": "dumb", "NO_COLOR": "1", "PYTHONPATH": ":".join(sys.path)},
    )
    return told.stdout.decode(errors="replace").replace("\r\n", "\n")


def session(attacked: Attacked) -> str:
    """The cookie of somebody signed in at the dashboard."""
    invitation = attacked.penstock.api("/invitations", {})["path"].partition("#")[2]
    kind = "Content-Type: application/x-www-form-urlencoded"
    answer = attacked.ask(
        "POST /sign-in", kind, "Sec-Fetch-Site: same-origin", body=b"token=" + invitation.encode()
    )
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_pusher_with_an_odd_name_is_told_plainly(attacked: Attacked) -> None:
    name = {"name": "\x1b[31mann\r\n-----> Deploy", "scope": "push"}
    answer = attacked.ask(
        "POST /api/tokens",
        f"Authorization: Bearer {attacked.penstock.client['token']}",
        "Content-Type: application/json",
        body=json.dumps(name).encode(),
    )
    assert answer.status == 422
    assert b"name: String should match pattern" in answer.body
