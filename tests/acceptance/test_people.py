"""People in the loop, through real pushes: approval, retry, redeploy, unpin, variables."""

from __future__ import annotations

import base64
from typing import Any

from plugins.penstock import Penstock, Pushed, Repository, service, static

ECHO = """
import http.server, os, socketserver

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ.get(self.path[1:], "unset").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(http.server.ThreadingHTTPServer):
    def server_bind(self):
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def echo(**config: str) -> dict[str, str]:
    """A service that answers `/NAME` with the variable of that name."""
    lines = {"web": "python echo.py", **config}
    return {"echo.py": ECHO, "penstock.yaml": "".join(f"{key}: {value}\n" for key, value in lines.items())}


def pushed(repository: Repository, files: dict[str, str]) -> Pushed:
    repository.commit(files)
    return repository.push()


def newest(penstock: Penstock, app: str) -> dict[str, Any]:
    run: dict[str, Any] = penstock.api(f"/runs?app={app}&limit=1")[0]
    return run


def ended(penstock: Penstock, run: dict[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = penstock.finished(run["id"])["run"]
    return record


def asked(penstock: Penstock, app: str, path: str) -> str:
    return penstock.ask(penstock.urls(app)["app"] + path).body.decode()


def test_a_push_that_needs_approval_detaches_and_is_let_through(shared_penstock: Penstock) -> None:
    penstock = shared_penstock
    repository = penstock.add("gated")
    assert pushed(repository, static("one")).code == 0
    waiting = pushed(repository, static("two", approve="true"))
    assert waiting.code == 0, waiting.said
    run = newest(penstock, "gated")
    assert f"NOT LIVE: run {run['id']} waits for approval; v1 serves" in waiting.said
    assert asked(penstock, "gated", "index.html") == "<h1>one</h1>\n"
    penstock.api(f"/runs/{run['id']}/approve", {})
    assert ended(penstock, run)["status"] == "succeeded"
    assert asked(penstock, "gated", "index.html") == "<h1>two</h1>\n"
    said = penstock.run("logs", str(run["id"])).stdout
    assert "Approve    approved by" in said


def test_an_approval_of_what_was_superseded_is_refused(shared_penstock: Penstock) -> None:
    penstock = shared_penstock
    repository = penstock.add("overtaken")
    pushed(repository, static("one", approve="true"))
    old = newest(penstock, "overtaken")
    pushed(repository, static("two", approve="true"))
    new = newest(penstock, "overtaken")
    url = f"{penstock.client['url']}/api/runs/{old['id']}/approve"
    answer = penstock.ask(url, {}, token=penstock.client["token"])
    assert answer.status == 409
    assert f"superseded by run {new['id']}" in answer.json()["detail"]
    assert newest(penstock, "overtaken")["status"] == "awaiting"


def test_an_approval_outlives_the_engine(penstock: Penstock) -> None:
    repository = penstock.add("shop")
    pushed(repository, static("one", approve="true"))
    penstock.kill()
    penstock.start()
    run = newest(penstock, "shop")
    assert run["status"] == "awaiting"
    penstock.api(f"/runs/{run['id']}/approve", {})
    assert ended(penstock, run)["status"] == "succeeded"


def test_a_red_push_is_retried_once_its_cause_is_gone(shared_penstock: Penstock) -> None:
    penstock = shared_penstock
    repository = penstock.add("retried")
    red = pushed(repository, echo(health="{path: /x, within: 5s}", build="{run: 'test -n \"$TOKEN\"'}"))
    assert red.code == 1
    penstock.api("/apps/retried/variables", {"variables": {"TOKEN": {"value": "t"}}})
    run = penstock.api(f"/runs/{newest(penstock, 'retried')['id']}/retry", {})
    assert ended(penstock, run)["status"] == "succeeded"
    assert asked(penstock, "retried", "TOKEN") == "t"


def test_a_changed_variable_is_a_release_and_a_rollback_brings_the_old_one_back(
    shared_penstock: Penstock,
) -> None:
    penstock = shared_penstock
    repository = penstock.add("coloured")
    penstock.api("/apps/coloured/variables", {"variables": {"COLOUR": {"value": "red"}}})
    assert pushed(repository, echo()).code == 0
    assert asked(penstock, "coloured", "COLOUR") == "red"
    changed = penstock.api("/apps/coloured/variables", {"variables": {"COLOUR": {"value": "blue"}}})
    assert ended(penstock, changed["run"])["status"] == "succeeded"
    assert asked(penstock, "coloured", "COLOUR") == "blue"
    assert [release["version"] for release in penstock.api("/apps/coloured/releases")] == [2, 1]
    ended(penstock, penstock.api("/apps/coloured/rollback", {}))
    assert asked(penstock, "coloured", "COLOUR") == "red"


def test_a_variable_that_makes_the_release_sick_never_takes_traffic(shared_penstock: Penstock) -> None:
    penstock = shared_penstock
    repository = penstock.add("careful")
    program = ECHO.replace("Server((", "assert 'BREAK' not in os.environ, 'it breaks'\nServer((")
    assert pushed(repository, {**echo(), "echo.py": program}).code == 0
    changed = penstock.api("/apps/careful/variables", {"variables": {"BREAK": {"value": "1"}}})
    run = ended(penstock, changed["run"])
    assert (run["status"], "ended with exit code 1" in run["error"]) == ("failed", True)
    assert asked(penstock, "careful", "BREAK") == "unset"


def test_no_secret_is_told_by_a_push_a_log_or_a_failing_app(shared_penstock: Penstock) -> None:
    penstock = shared_penstock
    repository = penstock.add("discreet")
    secret = "correct horse\nbattery staple"
    variable = {"value": secret, "secret": True}
    penstock.api("/apps/discreet/variables", {"variables": {"KEY": variable}})
    build = '{run: \'echo "$KEY"; printf %s "$KEY" | base64; env\'}'
    failing = "import os, sys\nsys.exit('the key is ' + repr(os.environ['KEY']))\n"
    red = pushed(repository, {**echo(build=build), "echo.py": failing})
    assert red.code == 1
    run = newest(penstock, "discreet")["id"]
    told = red.said + penstock.run("logs", str(run)).stdout + str(penstock.api(f"/runs/{run}"))
    for name in ("build",):
        told += penstock.run("logs", str(run), "--stage", name).stdout
    assert "[secret]" in told
    for form in ("correct horse", "battery staple", base64.b64encode(secret.encode()).decode()[:16]):
        assert form not in told, form
    kept = penstock.api("/apps/discreet/variables")
    assert kept == {"KEY": {"value": None, "secret": True}}


def test_a_redeploy_starts_the_same_commit_anew(shared_penstock: Penstock) -> None:
    penstock = shared_penstock
    repository = penstock.add("again")
    assert pushed(repository, service("one")).code == 0
    run = ended(penstock, penstock.api("/apps/again/redeploy", {}))
    assert (run["status"], run["kind"], run["release"]) == ("succeeded", "redeploy", "v2")
    assert asked(penstock, "again", "version") == "one"


def test_a_rollback_during_a_run_ends_it_and_holds_until_unpin(shared_penstock: Penstock) -> None:
    penstock = shared_penstock
    repository = penstock.add("held")
    for text in ("one", "two"):
        assert pushed(repository, static(text)).code == 0
    repository.commit(static("three", test="sleep 60"))
    push = repository.pushing()
    while newest(penstock, "held")["status"] != "running":
        assert push.poll() is None
    moving = newest(penstock, "held")
    rollback = ended(penstock, penstock.api("/apps/held/rollback", {}))
    assert rollback["status"] == "succeeded"
    assert ended(penstock, moving)["superseded_by"] == rollback["id"]
    assert push.wait(30) == 1
    assert push.stdout is not None
    push.stdout.close()
    assert penstock.api("/apps/held")["pinned"]
    assert asked(penstock, "held", "index.html") == "<h1>one</h1>\n"
    ended(penstock, penstock.api("/apps/held/unpin", {}))
    assert not penstock.api("/apps/held")["pinned"]
    assert asked(penstock, "held", "index.html") == "<h1>two</h1>\n"
