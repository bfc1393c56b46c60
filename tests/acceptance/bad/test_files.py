"""Bad penstock.yaml and Procfile, pushed: each is told with file and line, and nothing of it is run."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator

import pytest
from plugins.attacked import Attacked

DURATION = "must be a duration such as 20s"
NO_PATH = "must be a path such as /healthz"
ANCHORS = "anchors and aliases (& and *) are not used here"
TAGS = "tags (!) are not used here"
NOT_YAML = "is not valid YAML"
INSIDE = "must be a folder inside the repository"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("a: &a [x, x]\nb: &b [*a, *a]\nweb: [*b, *b]\n", f":1: {ANCHORS}", id="laughter"),
        pytest.param("web: &me [*me]\n", f":1: {ANCHORS}", id="a cycle"),
        pytest.param("<<: {web: x}\n", ":1: unknown key `<<`", id="a merge key"),
        pytest.param(
            "web: !!python/object/apply:os.system [touch CANARY]\n", f":1: {TAGS}", id="a command tag"
        ),
        pytest.param("test: !env HOME\n", f":1: {TAGS}", id="a tag of one's own"),
        pytest.param("#" * 10_000_000, ": is larger than 256 KiB", id="ten megabytes"),
        pytest.param("[" * 5_000, ":1: must have keys and values", id="brackets"),
        pytest.param("{a: " * 5_000, ":1: is nested deeper than 8 levels", id="nesting"),
        pytest.param("web:\tx\n\ttest: y\n", f":1: {NOT_YAML}", id="tabs"),
        pytest.param("web: x".encode("utf-16"), ":1: is not UTF-8 text", id="UTF-16"),
        pytest.param(b"web: a\0b\n", f": {NOT_YAML}", id="a NUL"),
        pytest.param('web: "\\ud800"\n', ":1: holds half a character", id="a lone surrogate"),
        pytest.param("web: a\nweb: b\n", ":2: `web` is given twice, first on line 1", id="a key twice"),
        pytest.param("wbe: x\n", ":1: unknown key `wbe` (did you mean `web`?)", id="an unknown key"),
        pytest.param('"\\e[31mx\\n-----> Deploy": y\n', ":1: unknown key", id="a key that fakes a line"),
        pytest.param("web: x\n---\nweb: y\n", ":2: only one document is read", id="two documents"),
        pytest.param("web: {a: b}\n", "must be a command line, or a list of words", id="no command"),
        pytest.param('test: "a\\0b"\n', ":1: `test` must not hold a NUL character", id="NUL in a command"),
        pytest.param(f"test: {'x' * 200_000}\n", "put it into a script", id="an endless command"),
        pytest.param('processes: {"../x": y}\n', "is no name for a process", id="a process elsewhere"),
        pytest.param(
            "processes:\n" + "".join(f"  p{number}: sleep 9\n" for number in range(10_000)),
            ":1: `processes`: an app has at most 50 of them",
            id="ten thousand processes",
        ),
        pytest.param("health: {within: -5s}\n", DURATION, id="a negative time"),
        pytest.param("health: {within: 0}\n", DURATION, id="no time"),
        pytest.param("health: {within: .inf}\n", DURATION, id="infinity"),
        pytest.param("health: {within: .nan}\n", DURATION, id="NaN"),
        pytest.param("health: {within: 99999999h}\n", DURATION, id="ten thousand years"),
        pytest.param("health: //169.254.169.254/latest\n", NO_PATH, id="a host for a path"),
        pytest.param("health: http://169.254.169.254/\n", NO_PATH, id="a URL for a path"),
        pytest.param('health: "@169.254.169.254/"\n', NO_PATH, id="a user for a path"),
        pytest.param('health: "/a\\r\\nHost: evil"\n', NO_PATH, id="a header in a path"),
        pytest.param("static: ../..\n", INSIDE, id="a folder outside"),
        pytest.param("static: /etc\n", INSIDE, id="a folder of the system"),
        pytest.param("static: ~root\n", "there is no folder ~root", id="somebody's home"),
        pytest.param("build: {base: 'a b; touch CANARY'}\n", "must be the name of an image", id="a bad base"),
        pytest.param("approve: perhaps\n", ":1: `approve`", id="perhaps"),
    ],
)
def test_a_penstock_yaml_with(attacked: Attacked, text: str | bytes, told: str) -> None:
    held = text.replace("CANARY", str(attacked.canary)) if isinstance(text, str) else text
    pushed = attacked.push_files({"penstock.yaml": held})
    assert pushed.code == 1
    assert "Checkout: penstock.yaml:" in pushed.said
    assert told in pushed.said
    assert "\n-----> Deploy" not in pushed.said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("hello\n", ":1: must read `name: command`", id="no command"),
        pytest.param("hello\n" * 10_000, ":20: must read `name: command`", id="ten thousand errors"),
        pytest.param("web: a\nweb: b\n", ":2: process `web` is given twice", id="a process twice"),
        pytest.param("../x: touch CANARY\n", ":1: `processes.../x` is no name for a process", id="a path"),
        pytest.param("\x1b[31m: x\n", ":1: `processes.", id="a colour"),
        pytest.param("web:\n", ":1: `processes.web` must not be empty", id="nothing to run"),
        pytest.param(b"\xff\xfe", ":1: is not UTF-8 text", id="no text"),
    ],
)
def test_a_procfile_with(attacked: Attacked, text: str | bytes, told: str) -> None:
    held = text.replace("CANARY", str(attacked.canary)) if isinstance(text, str) else text
    pushed = attacked.push_files({"Procfile": held})
    assert pushed.code == 1
    assert f"Procfile{told}" in pushed.said
    assert len(pushed.said) < 5_000


SERVE = """
import http.server, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", "INNER")
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@contextlib.contextmanager
def listener() -> Iterator[tuple[int, list[str]]]:
    """A server that nobody outside should make us ask: its port, and what it was asked for."""
    visits: list[str] = []

    class Inner(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            visits.append(self.path)
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Inner) as server:
        thread = threading.Thread(target=server.serve_forever, name="inner")
        thread.start()
        yield server.server_port, visits
        server.shutdown()
        thread.join()


def test_a_health_check_that_leads_elsewhere_is_not_followed(attacked: Attacked) -> None:
    """An app that answers by a redirect to an inner address is healthy by its own word; nobody goes there."""
    with listener() as (port, visits):
        serve = SERVE.replace("INNER", f"http://127.0.0.1:{port}/latest/meta-data")
        app = attacked.penstock.add("redirects")
        app.commit(
            {"serve.py": serve, "Procfile": "web: python serve.py", "penstock.yaml": "health: /healthz"}
        )
        assert app.push().code == 0
        assert visits == []
