"""Bad usage of the commands: each is told in a line or two, never by a traceback, and changes nothing."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from plugins.attacked import Attacked


def penstock(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    return subprocess.run(
        [sys.executable, "-m", "penstock_pipeline", *arguments],
        capture_output=True,
        text=True,
        env={**kept, **environment},
        timeout=60,
    )


def told(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert done.returncode == code, done
    assert words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("releases", "../../etc"), "'../../etc' is no name of an app"),
        (("releases", "\x1b[31mred"), "no app '\\x1b[31mred'"),
        (("runs", "--app", "$(id)"), "no app '$(id)'"),
        (("show", "99999999999999999999"), "less than or equal to 9223372036854775807"),
        (("logs", "1", "--stage", "../token.key"), "is not one of"),
        (("rollback", "shop", "v0"), "is not a release; it looks like v41"),
        (("apps", "add", "x" * 300), "use 1 to 40 of a-z"),
        (("apps", "add", "two\nlines"), "use 1 to 40 of a-z"),
        (("apps", "add", "a", "--branch", "--upload-pack=x"), "is not the name of a branch"),
        (("apps", "add", "a", "--repository", "ext::sh -c id"), "use an https, ssh, git or file URL"),
        (("config", "set", "shop", "--file", "/dev/zero"), "/dev/zero is larger than 256 KiB"),
        (("config", "set", "shop", "A B=1"), "variable 'A B'"),
        (("token", "--expires", "-1d"), "is not a time; it looks like 12h or 30d"),
        (("events", "add", "gopher://x"), "begins with http:// or https://"),
    ],
    ids=lambda one: " ".join(one)[:40] if isinstance(one, tuple) else "",
)
def test_an_argument(attacked: Attacked, arguments: tuple[str, ...], words: str) -> None:
    told(penstock(*arguments, "--state", str(attacked.penstock.state)), 2, words)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "70000", "port (PENSTOCK_PORT) is '70000'"),
        ("TEST_TIMEOUT", "inf", "test_timeout (PENSTOCK_TEST_TIMEOUT) is 'inf'"),
        ("DRAIN_TIMEOUT", "nan", "drain_timeout (PENSTOCK_DRAIN_TIMEOUT) is 'nan'"),
        ("EDGE_PORTS", "[1", "lists are written like [7081,7082]"),
        ("DOMAIN", "evil/../x", "must be a host name"),
        ("PUBLIC_URL", "javascript:x", "public_url (PENSTOCK_PUBLIC_URL) is 'javascript:x'"),
        ("STATE", "/", "must be the path of a folder of its own"),
        ("STATE", "two\nlines", "must be the path of a folder of its own"),
        ("STATE", "\x1b[31mred", "must be the path of a folder of its own"),
    ],
)
def test_a_setting(name: str, value: str, words: str, tmp_path: Path) -> None:
    state = {"PENSTOCK_STATE": str(tmp_path / "state")}
    told(penstock("up", **{**state, f"PENSTOCK_{name}": value}), 2, words)
    assert not (tmp_path / "state").exists()


def test_an_address_that_is_none(tmp_path: Path) -> None:
    done = penstock("up", "--state", str(tmp_path / "state"), "--port", "0", "--address", "999.1.1.1")
    told(done, 3, "cannot listen on 999.1.1.1: Name or service not known; choose another --address")


def test_what_is_no_state_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "photos").touch()
    assert penstock("down", "--state", str(tmp_path)).returncode == 0
    assert [one.name for one in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "{}", '{"url": 1, "token": 2}', '{"url": "file:///x", "token": "t"}', "[" * 100_000],
    ids=lambda content: content[:20] or "nothing",
)
def test_a_client_file_of_somebody_else(tmp_path: Path, content: str) -> None:
    (tmp_path / "client.json").write_text(content)
    done = penstock("status", "--state", str(tmp_path))
    assert done.returncode in (2, 3)
    assert "Traceback" not in done.stderr
    assert " !     " in done.stderr


ANSWERS: Mapping[str, bytes] = {
    "a web page": b"<!doctype html><h1>Welcome</h1>",
    "another API": json.dumps({"status": "ok", "apps": 5}).encode(),
    "a list": b"[]",
    "brackets": b"[" * 200_000,
    "bytes": b"\xff\xfe\x1b[31m",
}


@contextlib.contextmanager
def another_server(answer: bytes) -> Iterator[str]:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever, name="another server")
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_server_that_is_no_penstock_and_answers(answer: bytes) -> None:
    with another_server(answer) as url:
        done = penstock("status", PENSTOCK_URL=url, PENSTOCK_TOKEN="t")
    told(done, 3, f"what answers at {url} is no Penstock")
