"""What a person sees who pushes: each push as promised, with a clear line."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import time

import psutil
import pytest
from plugins.penstock import Penstock, Repository, service, static, wait_for_end

from penstock_pipeline.tokens import Scope, Tokens

APP_NUMBER = iter(range(1, 1000))


@pytest.fixture
def app(shared_penstock: Penstock) -> tuple[Penstock, str, Repository]:
    name = f"app{next(APP_NUMBER)}"
    return shared_penstock, name, shared_penstock.add(name)


App = tuple[Penstock, str, Repository]


def serves(penstock: Penstock, name: str, path: str, text: str) -> bool:
    """Whether router, port and every edge answer with this text."""
    urls = penstock.urls(name)
    bodies = [
        penstock.ask(url.rstrip("/") + path).body.decode()
        for url in (urls["app"], urls["port"], *urls["edges"])
    ]
    return all(body == text for body in bodies)


def test_a_push_is_live_everywhere_when_it_returns(app: App) -> None:
    penstock, name, repository = app
    repository.commit(service("one", test='python -c "print(6 * 7)"'))
    pushed = repository.push()
    assert pushed.code == 0, pushed.said
    assert serves(penstock, name, "/", "<h1>one</h1>\n")
    assert serves(penstock, name, "/version", "one")
    for line in (
        "-----> Accepted",
        "       42",
        "-----> Test       passed under ",
        "-----> Build      sha256:",
        "-----> Upload     image",
        "-----> Start      healthy on the",
        "-----> Deploy     v1 takes traffic",
        "-----> Refresh ",
        "2 of 2 edges verified",
        "=====> http://",
    ):
        assert line in pushed.said


def test_a_build_cannot_publish_what_it_may_not_read(app: App) -> None:
    penstock, _, repository = app
    repository.commit(static("one", build=f"{{run: rm -r public && ln -s {penstock.state} public}}"))
    pushed = repository.push()
    assert pushed.code == 1
    assert "Build: the static folder public is a link out of the app's files" in pushed.said


def test_the_second_push_purges_what_differs_and_names_the_undo(app: App) -> None:
    penstock, name, repository = app
    repository.commit(service("one"))
    repository.push()
    same = penstock.urls(name)["edges"][0] + "same.txt"
    assert penstock.ask(same).status == 200
    repository.commit(service("two"))
    pushed = repository.push()
    assert pushed.code == 0, pushed.said
    assert "1 commit ahead of v1" in pushed.said
    assert "v2 takes traffic, v1 drains" in pushed.said
    assert f"undo: penstock rollback {name}" in pushed.said
    assert serves(penstock, name, "/", "<h1>two</h1>\n")
    assert penstock.ask(same).headers["x-cache"] == "HIT"
    assert penstock.ask(penstock.urls(name)["edges"][0]).headers["x-penstock-release"] == "v2"


def test_a_candidate_that_is_not_healthy_gets_no_traffic_and_explains_itself(app: App) -> None:
    penstock, name, repository = app
    repository.commit(service("one"))
    repository.push()
    repository.commit(sick("two"))
    pushed = repository.push()
    assert pushed.code == 1
    assert " !     Start:" in pushed.said
    assert "answered 500" in pushed.said
    assert "serving two" in pushed.said
    assert "v1 serves" in pushed.said
    assert "! [remote rejected] main -> main" in pushed.said
    assert serves(penstock, name, "/version", "one")
    assert serves(penstock, name, "/", "<h1>one</h1>\n")


def sick(version: str) -> dict[str, str]:
    return service(version, status=500, health="{path: /healthz, within: 500ms}")


def test_red_tests_stop_the_push_with_their_last_lines(app: App) -> None:
    penstock, name, repository = app
    repository.commit(static("one", test="echo this is why && exit 3"))
    pushed = repository.push()
    assert pushed.code == 1
    assert "ended with exit code 3" in pushed.said
    assert "this is why" in pushed.said
    assert "nothing serves" in pushed.said
    assert penstock.ask(penstock.urls(name)["app"]).status == 404


def test_pushing_the_same_commit_again_retries(app: App) -> None:
    _, _, repository = app
    marker = repository.folder.parent / f"{repository.folder.name}-fixed"
    repository.commit(static("one", test=f"test -e {marker}"))
    assert repository.push().code == 1
    marker.touch()
    assert repository.push().code == 0


def test_a_broken_file_is_told_with_its_line(app: App) -> None:
    _, _, repository = app
    repository.commit({**static("one"), "penstock.yaml": "static: public\nwbe: python -m shop\n"})
    pushed = repository.push()
    assert pushed.code == 1
    assert "penstock.yaml:2" in pushed.said
    assert "wbe" in pushed.said


def test_another_branch_is_stored_and_does_not_go_live(app: App) -> None:
    penstock, name, repository = app
    repository.commit(static("one"))
    pushed = repository.push("penstock", "main:topic")
    assert pushed.code == 0
    assert "Stored     topic at" in pushed.said
    assert "only main goes live" in pushed.said
    assert penstock.api(f"/runs?app={name}") == []
    assert "topic" in repository.git("ls-remote", "penstock").stdout


def test_a_tag_is_stored(app: App) -> None:
    _, _, repository = app
    repository.commit(static("one"))
    repository.git("tag", "-a", "v1.0", "-m", "one")
    pushed = repository.push("penstock", "v1.0")
    assert pushed.code == 0, pushed.said
    assert "refs/tags/v1.0" in repository.git("ls-remote", "penstock").stdout


def test_a_branch_that_git_could_not_keep_beside_the_live_one_is_refused(app: App) -> None:
    penstock, name, repository = app
    repository.commit(static("one"))
    refused = repository.push("penstock", "main:main/x")
    assert refused.code == 1
    assert "git cannot keep main/x beside main" in refused.said
    assert "Stored" not in refused.said
    assert repository.push().code == 0
    assert serves(penstock, name, "/", "<h1>one</h1>\n")


def test_a_tag_cannot_become_a_branch(app: App) -> None:
    penstock, name, repository = app
    repository.commit(static("one"))
    repository.git("tag", "-a", "v1.0", "-m", "one")
    live, topic = (repository.push("penstock", f"v1.0:refs/heads/{name}") for name in ("main", "topic"))
    assert (live.code, topic.code) == (1, 1)
    assert "is not a commit" in live.said
    assert "non-commit object" in topic.said
    assert "Stored" not in topic.said
    assert penstock.api(f"/runs?app={name}") == []


def test_the_live_branch_cannot_be_deleted_another_one_can(app: App) -> None:
    penstock, name, repository = app
    repository.commit(static("one"))
    repository.push("penstock", "main", "main:topic")
    refused = repository.push("penstock", ":main")
    assert refused.code == 1
    assert "cannot be deleted" in refused.said
    assert repository.push("penstock", ":topic").code == 0
    assert "topic" not in repository.git("ls-remote", "penstock").stdout
    assert serves(penstock, name, "/", "<h1>one</h1>\n")


def test_history_is_rewritten_only_by_force(app: App) -> None:
    penstock, name, repository = app
    repository.commit(static("one"))
    repository.push()
    repository.commit(static("two"))
    repository.push()
    repository.git("reset", "--hard", "HEAD~1")
    repository.commit(static("three"))
    assert repository.push().code == 1
    assert serves(penstock, name, "/", "<h1>two</h1>\n")
    forced = repository.push("--force", "penstock", "main")
    assert forced.code == 0, forced.said
    assert serves(penstock, name, "/", "<h1>three</h1>\n")


def test_a_push_while_one_runs_waits_and_a_newer_one_takes_its_place(app: App) -> None:
    penstock, name, repository = app
    gate = repository.folder.parent / f"{repository.folder.name}-gate"
    slow = {"test": f"while ! test -e {gate}; do sleep 0.02; done"}
    repository.commit(static("one", **slow))
    first = repository.pushing()
    wait_for_runs(penstock, name, 1)
    repository.commit(static("two"))
    second = repository.pushing()
    wait_for_runs(penstock, name, 2)
    repository.commit(static("three"))
    third = repository.pushing()
    superseded = wait_for_end(second)
    assert superseded.code == 1
    assert "superseded by run" in superseded.said
    gate.touch()
    assert wait_for_end(first).code == 0
    assert wait_for_end(third).code == 0
    assert serves(penstock, name, "/", "<h1>three</h1>\n")


def wait_for_runs(penstock: Penstock, name: str, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(penstock.api(f"/runs?app={name}")) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_side_branch_of_what_is_on_its_way_does_not_overtake_it(app: App) -> None:
    penstock, name, repository = app
    gate = repository.folder.parent / f"{repository.folder.name}-gate"
    repository.commit(static("zero"))
    repository.push()
    repository.commit(static("one", test=f"while ! test -e {gate}; do sleep 0.02; done"))
    first = repository.pushing()
    wait_for_runs(penstock, name, 2)
    repository.git("reset", "--hard", "HEAD~1")
    repository.commit(static("other"))
    refused = repository.push()
    assert refused.code == 1
    assert "does not contain" in refused.said
    assert "-o force" in refused.said
    gate.touch()
    assert wait_for_end(first).code == 0


def test_two_apps_at_once(shared_penstock: Penstock) -> None:
    names = [f"app{next(APP_NUMBER)}" for _ in range(2)]
    repositories = [shared_penstock.add(name) for name in names]
    for name, repository in zip(names, repositories, strict=True):
        repository.commit(service(name))
    pushes = [repository.pushing() for repository in repositories]
    assert [wait_for_end(push).code for push in pushes] == [0, 0]
    for name in names:
        assert serves(shared_penstock, name, "/version", name)


def test_a_rollback_is_live_everywhere_and_keeps_what_it_replaced(app: App) -> None:
    penstock, name, repository = app
    for version in ("one", "two"):
        repository.commit(service(version))
        repository.push()
    done = penstock.run("rollback", name)
    assert "v1 takes traffic, v2 drains" in done.stdout + done.stderr
    assert serves(penstock, name, "/version", "one")
    assert serves(penstock, name, "/", "<h1>one</h1>\n")
    repository.commit(service("three"))
    assert repository.push().code == 0
    assert serves(penstock, name, "/version", "three")


def test_a_cancelled_run_ends_its_processes(app: App) -> None:
    penstock, name, repository = app
    mark = f"mark-{name}"
    repository.commit(static("one", test=f"exec python -c 'import time; time.sleep(600)' {mark}"))
    push = repository.pushing()
    wait_for_process(mark, present=True)
    run = penstock.api(f"/runs?app={name}")[0]["id"]
    penstock.run("cancel", str(run))
    ended = wait_for_end(push)
    assert ended.code == 1
    assert "cancelled by" in ended.said
    wait_for_process(mark, present=False)


def wait_for_process(mark: str, *, present: bool) -> None:
    deadline = time.monotonic() + 20
    while bool(processes(mark)) is not present:
        assert time.monotonic() < deadline, processes(mark)
        time.sleep(0.02)


def processes(mark: str) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return [
        line
        for line in listed.splitlines()
        if f"time.sleep(600) {mark}" in line.replace("'", "") and line[0] != "Z"
    ]


def test_wrong_expired_and_foreign_tokens_are_refused_in_words(app: App) -> None:
    penstock, name, repository = app
    repository.commit(static("one"))
    remote = repository.git("remote", "get-url", "penstock").stdout.strip()
    address = remote.partition("@")[2]
    tokens = Tokens(penstock.state / "token.key")
    expired = tokens.issue("ann", Scope.PUSH, app=name, seconds=-1)
    foreign = tokens.issue("ann", Scope.PUSH, app="another")
    for token in ("nonsense", expired, foreign):
        refused = repository.push(f"http://penstock:{token}@{address}", "main")
        assert refused.code != 0
        assert "Authentication failed" in refused.said
    assert penstock.api(f"/runs?app={name}") == []


def test_an_unknown_app_is_told_with_those_there_are(app: App) -> None:
    penstock, name, repository = app
    repository.commit(static("one"))
    remote = repository.git("remote", "get-url", "penstock").stdout.strip()
    address = remote.partition("@")[2].replace(f"/git/{name}", "/git/nowhere")
    token = Tokens(penstock.state / "token.key").issue("ann", Scope.PUSH)
    answer = repository.push(f"http://penstock:{token}@{address}", "main")
    assert answer.code != 0
    assert "no app 'nowhere'; there are: " in answer.said


def test_a_webhook_fetches_the_registered_repository(shared_penstock: Penstock) -> None:
    upstream = Repository(shared_penstock.folder / "upstream")
    commit = upstream.commit(static("from the forge"))
    name, secret = f"app{next(APP_NUMBER)}", "a secret of sixteen"
    shared_penstock.add(name, repository=str(upstream.folder), webhook_secret=secret)
    body = json.dumps({"ref": "refs/heads/main", "after": commit, "pusher": {"name": "ann"}}).encode()
    headers = {
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": "1",
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    answer = shared_penstock.ask(shared_penstock.urls(name)["webhook"], body, headers=headers)
    assert answer.status == 202
    assert shared_penstock.finished(answer.json()["run"])["run"]["status"] == "succeeded"
    assert serves(shared_penstock, name, "/", "<h1>from the forge</h1>\n")
    late = shared_penstock.ask(
        shared_penstock.urls(name)["webhook"], body, headers={**headers, "X-GitHub-Delivery": "2"}
    )
    assert shared_penstock.finished(late.json()["run"])["run"]["status"] == "ignored"


def test_a_flood_of_output_fills_neither_memory_nor_database(app: App) -> None:
    penstock, name, repository = app
    flood = "yes 0123456789012345678901234567890123456789012345678 | head -c 100000000"
    repository.commit(static("one", test=f"'{flood}'"))
    before = memory(penstock)
    pushed = repository.push()
    assert pushed.code == 0, pushed.said[-500:]
    assert pushed.said.count("\nremote:        0123456789") <= 1000
    run = penstock.api(f"/runs?app={name}")[0]["id"]
    assert f"penstock logs {run} --stage test" in pushed.said
    log = penstock.state / "logs" / str(run) / "test.log"
    assert log.stat().st_size < 16 * 1024 * 1024 + 200
    assert "the log is full at 16,777,216 bytes; 83,222,784 more were dropped" in log.read_text()[-200:]
    assert memory(penstock) - before < 50_000_000
    assert (penstock.state / "penstock.db").stat().st_size < 5_000_000


def memory(penstock: Penstock) -> int:
    assert penstock.process is not None
    return psutil.Process(penstock.process.pid).memory_info().rss
