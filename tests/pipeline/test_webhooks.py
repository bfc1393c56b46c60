"""The door for webhooks takes what a forge has proved to be its own, once, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from plugins.house import eventually
from plugins.senders import COMMIT, SECRET, SENDERS, Headers, Sender, hexadecimal, push, standard

from penstock_pipeline import signatures
from penstock_pipeline.model import App, webhook_of
from penstock_pipeline.receiver.forges import FORGES
from penstock_pipeline.receiver.webhooks import WebhookDoor
from penstock_pipeline.store import SqliteStore, history, queue, registry
from penstock_pipeline.vault import Vault

GONE = "0" * 40
LIMIT = 10_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "penstock.db")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "secrets.key")


@pytest.fixture
async def app(store: SqliteStore, vault: Vault) -> App:
    await store.write(registry.add, name="plain", branch="main", port=7101)
    sealed = vault.seal(SECRET.encode(), about=webhook_of("shop"))
    told = {"branch": "main", "repository": "/srv/shop.git", "webhook_sealed": sealed}
    return await store.write(registry.add, name="shop", port=7100, **told)


@pytest.fixture
async def door(store: SqliteStore, vault: Vault, app: App) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(WebhookDoor(store, vault, body_limit=LIMIT))
    async with httpx.AsyncClient(transport=transport, base_url="http://penstock") as client:
        yield client


async def runs(store: SqliteStore) -> list[str]:
    return [run.commit for run in await store.read(history.recent_runs)]


GITHUB, GITLAB, SIGNED_GITLAB, GITEA, FORGEJO, GENERIC = SENDERS

each = pytest.mark.parametrize("sender", SENDERS, ids=lambda one: f"{one.name} by {one.proof}")


async def deliver(
    door: httpx.AsyncClient,
    sender: Sender,
    body: bytes,
    *,
    id: str = "d-1",
    app: str = "shop",
    changed: Headers | None = None,
) -> httpx.Response:
    headers = {**sender.headers(body, id), **(changed or {})}
    encoded = {name: value.encode() for name, value in headers.items()}
    return await door.post(f"/hooks/{sender.name}/{app}", content=body, headers=encoded)


def test_every_forge_is_tried_here() -> None:
    assert {sender.name for sender in SENDERS} == set(FORGES)


# -- pushes


@each
@pytest.mark.parametrize("commit", [COMMIT, "c" * 64], ids=["sha1", "sha256"])
async def test_a_push_is_on_the_disk_before_the_answer(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender, commit: str
) -> None:
    answer = await deliver(door, sender, push(sender, after=commit))
    assert answer.status_code == 202
    run = await store.read(history.run, answer.json()["run"])
    assert (run.commit, run.actor, run.source) == (commit, "ann", sender.name)


async def test_anybody_may_name_the_commit_plainly(door: httpx.AsyncClient, store: SqliteStore) -> None:
    body = json.dumps({"ref": "refs/heads/main", "commit": COMMIT}).encode()
    assert (await deliver(door, GENERIC, body)).status_code == 202
    assert [run.actor for run in await store.read(history.recent_runs)] == ["generic"]


async def test_a_pusher_whose_name_is_no_text_is_taken(door: httpx.AsyncClient, store: SqliteStore) -> None:
    answer = await deliver(door, GITHUB, push(GITHUB, pusher={"name": "ann \ud800\x1b[31m"}))
    assert answer.status_code == 202
    assert (await store.read(history.run, answer.json()["run"])).actor == "ann "


@pytest.mark.parametrize("pusher", [None, 7, [], {"name": {}}, "", "\x00\n"])
async def test_a_pusher_who_is_nobody_is_the_forge(
    door: httpx.AsyncClient, store: SqliteStore, pusher: object
) -> None:
    answer = await deliver(door, GITHUB, push(GITHUB, pusher=pusher))
    assert (await store.read(history.run, answer.json()["run"])).actor == "github"


async def test_the_repository_named_in_the_body_is_not_looked_at(
    door: httpx.AsyncClient, store: SqliteStore, app: App
) -> None:
    named = {"clone_url": "https://evil.example/x.git", "git_http_url": "ext::sh -c id"}
    assert (await deliver(door, GITLAB, push(GITLAB, repository=named, project=named))).status_code == 202
    assert (await store.read(registry.get, "shop")).repository == app.repository


@each
async def test_a_branch_that_is_made_goes_live(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender
) -> None:
    assert (await deliver(door, sender, push(sender, before=GONE, created=True))).status_code == 202
    assert await runs(store) == [COMMIT]


@each
@pytest.mark.parametrize(
    "changes",
    [
        {"ref": "refs/heads/topic"},
        {"ref": "refs/heads/$(id)"},
        {"ref": "refs/tags/v1"},
        {"ref": "refs/tags/main"},
        {"after": GONE, "deleted": True, "checkout_sha": None},
        {"after": "0" * 64, "checkout_sha": None},
        {"after": COMMIT, "deleted": True},
        {"after": COMMIT, "before": COMMIT},
    ],
    ids=str,
)
async def test_what_moves_no_live_branch_sets_nothing_off(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender, changes: dict[str, Any]
) -> None:
    for duplicate in (False, True):
        answer = await deliver(door, sender, push(sender, **changes))
        assert answer.status_code == 200
        assert answer.json()["ignored"]
        assert answer.json()["duplicate"] is duplicate
    assert await runs(store) == []


@pytest.mark.parametrize(
    ("sender", "event"),
    [
        (GITHUB, "ping"),
        (GITHUB, "create"),
        (GITHUB, "delete"),
        (GITHUB, ""),
        (GITLAB, "Tag Push Hook"),
        (GITLAB, "System Hook"),
        (GITEA, "create"),
        (GITEA, "delete"),
        (FORGEJO, "create"),
    ],
)
async def test_other_events_set_nothing_off(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender, event: str
) -> None:
    body = json.dumps({"zen": "Keep it logically awesome.", "ref": "main", "ref_type": "branch"}).encode()
    answer = await deliver(door, sender, body, changed={sender.event or "": event})
    assert answer.status_code == 200
    assert event in answer.json()["ignored"]
    assert await runs(store) == []


# -- the same again


@each
async def test_a_hundred_deliveries_of_one_webhook_at_once_are_one_run(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender
) -> None:
    answers = await asyncio.gather(*(deliver(door, sender, push(sender)) for _ in range(100)))
    assert sorted(answer.status_code for answer in answers) == [200] * 99 + [202]
    assert len({answer.json()["run"] for answer in answers}) == 1
    assert await runs(store) == [COMMIT]


@each
async def test_the_same_body_by_another_name_joins_the_run(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender
) -> None:
    first = await deliver(door, sender, push(sender), id="1")
    second = await deliver(door, sender, push(sender), id="2")
    assert (first.status_code, second.status_code) == (202, 200)
    assert second.json() == {"run": first.json()["run"], "duplicate": True}
    assert await runs(store) == [COMMIT]


@each
async def test_the_same_name_with_another_body_is_a_conflict(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender
) -> None:
    await deliver(door, sender, push(sender))
    assert (await deliver(door, sender, push(sender, after="b" * 40, before=GONE))).status_code == 409
    assert await runs(store) == [COMMIT]


async def test_gitlab_sends_a_delivery_again_under_its_idempotency_key(
    door: httpx.AsyncClient, store: SqliteStore, app: App
) -> None:
    first = await deliver(door, GITLAB, push(GITLAB))
    await store.write(queue.cancel_waiting, first.json()["run"], by="ann")
    again = await deliver(door, GITLAB, push(GITLAB), changed={"X-Gitlab-Webhook-UUID": "another"})
    assert again.json() == {"run": first.json()["run"], "duplicate": True}


async def test_a_gitlab_without_idempotency_keys_loses_nothing(
    door: httpx.AsyncClient, store: SqliteStore
) -> None:
    headers = GITLAB.headers(push(GITLAB), "")
    del headers["Idempotency-Key"]
    answer = await door.post("/hooks/gitlab/shop", content=push(GITLAB), headers=headers)
    assert answer.status_code == 202


@each
async def test_deliveries_while_one_waits_leave_the_newest(
    door: httpx.AsyncClient, store: SqliteStore, app: App, sender: Sender
) -> None:
    for number in range(1, 4):
        await deliver(door, sender, push(sender, after=f"{number:040x}"), id=str(number))
    assert [run.commit for run in await store.read(queue.active, app.id)] == [f"{3:040x}"]


# -- who does not prove to be the forge


def wrong_proofs() -> list[Any]:
    """For each sender: nothing, short, cut, another secret's, another case, alphabet or kind."""
    found = []
    for sender in SENDERS:
        body = push(sender)
        right = sender.headers(body, "d-1")[sender.proof]
        wrong = (
            "",
            "x",
            right[:-1],
            right + "0",
            right.swapcase(),
            right[:-1] + "é",
            f" , {right}x",
            "sha1=00",
        )
        another = {**sender.headers(body, "d-1")}
        if sender.proof == "webhook-signature":
            another |= standard(body, "d-1", secret="another secret!!")
        elif sender.proof != "X-Gitlab-Token":
            wrong += (hexadecimal(body, "another secret!!"), f"sha256={hexadecimal(body, 'another')}")
        found += [
            pytest.param(sender, one, id=f"{sender.name}-{sender.proof}-{at}") for at, one in enumerate(wrong)
        ]
        if another[sender.proof] != right:
            found.append(pytest.param(sender, another[sender.proof], id=f"{sender.name}-another-secret"))
    return found


@pytest.mark.parametrize(("sender", "proof"), wrong_proofs())
async def test_a_wrong_proof_is_refused_and_nothing_kept(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender, proof: str
) -> None:
    answer = await deliver(door, sender, push(sender), changed={sender.proof: proof})
    assert answer.status_code == 401
    assert sender.proof.lower() in answer.json()["error"].lower()
    assert await runs(store) == []
    assert (await deliver(door, sender, push(sender))).status_code == 202


@each
async def test_no_proof_and_two_proofs_are_refused(door: httpx.AsyncClient, sender: Sender) -> None:
    headers = [*sender.headers(push(sender), "d-1").items()]
    without = [(name, value) for name, value in headers if name != sender.proof and name != "X-Gitlab-Token"]
    proof = next(one for one in headers if one[0] == sender.proof)
    for given in (without, [*without, ("X-Hub-Signature", "sha1=00")], [*headers, proof]):
        answer = await door.post(f"/hooks/{sender.name}/shop", content=push(sender), headers=given)
        assert answer.status_code == 401


async def test_a_secret_that_cannot_be_opened_refuses_nothing_for_good_and_tells_no_stranger_why(
    door: httpx.AsyncClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "secrets.key").unlink()
    answer = await deliver(door, GENERIC, push(GENERIC))
    assert answer.status_code == 503
    assert str(tmp_path) not in answer.text
    assert f"webhooks of shop cannot be checked: {tmp_path}/secrets.key" in caplog.text


@pytest.mark.parametrize("sender", [GENERIC, SIGNED_GITLAB], ids=lambda one: one.name)
@pytest.mark.parametrize("seconds", [-301, 302])
async def test_a_right_signature_of_another_time_is_to_come_again(
    door: httpx.AsyncClient, sender: Sender, seconds: int
) -> None:
    body = push(sender)
    late = standard(body, "d-1", at=time.time() + seconds)
    answer = await deliver(door, sender, body, changed=late)
    assert answer.status_code == 425
    assert "away from the clock here" in answer.json()["error"]
    wrong = late | {"webhook-signature": standard(b"else", "d-1", at=time.time())["webhook-signature"]}
    assert (await deliver(door, sender, body, changed=wrong)).status_code == 401


@pytest.mark.parametrize("at", ["", "now", "-1", "1e9", "9" * 20, "NaN"])
async def test_a_time_that_is_none_is_refused(door: httpx.AsyncClient, at: str) -> None:
    answer = await deliver(door, GENERIC, push(GENERIC), changed={"webhook-timestamp": at})
    assert answer.status_code == 401
    assert "webhook-timestamp" in answer.json()["error"]


async def test_one_of_several_signatures_is_enough_while_keys_change(door: httpx.AsyncClient) -> None:
    body = push(GENERIC)
    right = standard(body, "d-1")["webhook-signature"]
    answer = await deliver(door, GENERIC, body, changed={"webhook-signature": f"v1,AAAA v1a,x {right}"})
    assert answer.status_code == 202


def test_a_secret_signs_the_same_as_bytes_and_serialized() -> None:
    serialized = signatures.serialized(SECRET)
    assert serialized == "whsec_" + base64.b64encode(SECRET.encode()).decode()
    assert signatures.sign(SECRET, "d", 1, b"{}") == signatures.sign(serialized, "d", 1, b"{}")
    assert signatures.serialized(serialized) == serialized
    assert signatures.key("whsec_?") == b"whsec_?"
    assert signatures.key("whsec_é") == "whsec_é".encode()


def test_the_specifications_own_example_is_signed_as_it_says() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signature = signatures.sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


# -- what is proved and yet nonsense


NONSENSE: tuple[bytes, ...] = (
    b"",
    b"null",
    b"[]",
    b'"push"',
    b"{",
    b"\x00",
    b"\xff\xfe",
    b"payload=%7B%7D",
    b"[" * 9000,
    b'{"a":' * 1600,
    push(GENERIC)[:-1] + b', "ref": "refs/heads/main"}',
    push(GENERIC)[:-1] + b', "x": {"y": 1, "y": 2}}',
    push(GENERIC)[:-1] + b', "x": NaN}',
    push(GENERIC)[:-1] + b', "x": -Infinity}',
    push(GENERIC)[:-1] + b', "x": ' + b"9" * 5000 + b"}",
    b'{"ref": "refs/heads/main"}',
    b'{"after": "%s"}' % COMMIT.encode(),
    *(
        push(GENERIC, after=after)
        for after in (None, 7, [], {}, True, "", "HEAD", COMMIT[:7], COMMIT.upper(), COMMIT + "\n",
                      "--upload-pack=x", "$(id)", "../" * 13 + "x", "\ud800" * 40, "０" * 40)
    ),
    *(
        push(GENERIC, ref=ref)
        for ref in (None, 7, [], {}, "", "main", "HEAD", "--upload-pack=x", "$(id)", "refs", "refs/",
                    "refs//x",
                    "refs/heads/../x", "refs/heads/.x", "refs/heads/x.lock", "refs/heads/x.",
                    "refs/heads/a b", "refs/heads/main\r\nX: y", "refs/heads/main\n", "refs/heads/main\x00",
                    "refs/heads/\ud800", "refs/heads/@{1}", "refs/heads/x~1", "refs/heads/*", "/refs/heads/x")
    ),
)  # fmt: skip


@pytest.mark.parametrize("body", NONSENSE, ids=lambda body: body[-60:].decode(errors="replace"))
async def test_nonsense_that_is_signed_is_refused_clearly(
    door: httpx.AsyncClient, store: SqliteStore, body: bytes
) -> None:
    answer = await deliver(door, GENERIC, body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert await runs(store) == []


@each
@pytest.mark.parametrize("name", ["", "a b", "x" * 201, "$(id)", "../x"])
async def test_a_delivery_without_a_name_is_refused(
    door: httpx.AsyncClient, store: SqliteStore, sender: Sender, name: str
) -> None:
    header = FORGES[sender.name].deliveries[0 if sender is not GITLAB else 1]
    body = push(sender)
    changed = {header: name}
    if sender.proof == "webhook-signature":
        changed |= standard(body, name)
    answer = await deliver(door, sender, body, changed=changed)
    assert answer.status_code == 400
    assert "the delivery has no name" in answer.json()["error"]
    assert await runs(store) == []


async def test_a_form_is_told_how_to_become_json(door: httpx.AsyncClient, store: SqliteStore) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await deliver(door, GITHUB, b"payload=%7B%22zen%22%3A%22x%22%7D", changed=form)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "zstd"])
async def test_a_compressed_body_is_refused_before_it_grows(door: httpx.AsyncClient, encoding: str) -> None:
    bomb = gzip.compress(b"0" * 5_000_000)
    answer = await deliver(door, GITHUB, bomb, changed={"Content-Encoding": encoding})
    assert answer.status_code == 415
    assert encoding in answer.json()["error"]


# -- who else knocks


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_post_is_taken(door: httpx.AsyncClient, method: str) -> None:
    answer = await door.request(method, "/hooks/github/shop")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path",
    ["sourcehut/shop", "github", "github/", "github/shop/", "github/SHOP", "github/%2e%2e", "/shop", "a/b/c",
     "github/shop%0a", "github/shop%00", "GitHub/shop"],
)  # fmt: skip
async def test_an_address_that_is_none_is_told(door: httpx.AsyncClient, path: str) -> None:
    answer = await door.post(f"/hooks/{path}", content=b"{}")
    assert answer.status_code == 404
    assert "github, gitlab, gitea, forgejo, generic" in answer.json()["error"]


async def test_who_has_no_secret_does_not_learn_which_apps_there_are(door: httpx.AsyncClient) -> None:
    told = [await deliver(door, GITHUB, push(GITHUB), app=name) for name in ("plain", "nowhere")]
    assert [answer.status_code for answer in told] == [404, 404]
    words = [answer.json()["error"].replace("plain", "nowhere") for answer in told]
    assert words[0] == words[1]
    assert "shop" not in words[1]
    assert "--repository" in words[1]


async def test_a_full_disk_is_a_503_and_the_delivery_may_come_again(
    door: httpx.AsyncClient, store: SqliteStore
) -> None:
    await store.write(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count = 1"))
    numbers = iter(range(1000))
    while (await deliver(door, GITHUB, push(GITHUB), id=str(number := next(numbers)))).status_code != 503:
        pass
    await store.write(lambda tx: tx.exec_driver_sql("PRAGMA max_page_count = 100000"))
    assert (await deliver(door, GITHUB, push(GITHUB), id=str(number))).status_code == 200
    assert await runs(store) == [COMMIT]


# -- at the wire


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        pass


@pytest.fixture
async def port(store: SqliteStore, vault: Vault, app: App) -> AsyncIterator[int]:
    """The door behind the real server, with little time for a body."""
    web = WebhookDoor(store, vault, body_limit=LIMIT, body_time=0.5)
    config = uvicorn.Config(web, port=0, http="httptools", ws="none", lifespan="off", log_config=None)
    server = _Server(config)
    serving = asyncio.create_task(server.serve(), name="serving")
    await eventually(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


HEAD = "POST /hooks/github/shop HTTP/1.1\r\nHost: x\r\n"


async def answer_to(port: int, request: bytes, *, more: bytes = b"", most: int = 1) -> tuple[bytes, int]:
    """What comes until the other side closes, and how often `more` could be sent before it did."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = 0
    try:
        writer.write(request)
        for sent in range(most):  # noqa: B007 - it is told
            writer.write(more)
            await writer.drain()
    except ConnectionError:
        pass
    try:
        async with asyncio.timeout(10):
            return await reader.read(), sent
    except ConnectionError:
        return b"", sent
    finally:
        writer.close()


async def test_a_gigabyte_that_is_declared_is_refused_at_once(port: int) -> None:
    answer, _ = await answer_to(port, f"{HEAD}Content-Length: 1000000000\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"longer than 10,000 bytes" in answer
    assert b"connection: close" in answer


async def test_a_gigabyte_that_is_streamed_is_not_read(port: int) -> None:
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    head = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode()
    answer, sent = await answer_to(port, head, more=piece, most=16_000)
    assert sent < 1000  # what fits into buffers on the way
    assert not answer or answer.startswith(b"HTTP/1.1 413")


async def test_a_body_without_a_length_is_counted_and_taken(port: int, store: SqliteStore) -> None:
    body = push(GITHUB)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answer = await client.post("/hooks/github/shop", content=pieces(), headers=GITHUB.headers(body, "1"))
    assert answer.status_code == 202
    assert await runs(store) == [COMMIT]


async def test_a_body_that_drips_is_not_waited_for(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{HEAD}Content-Length: 10000\r\n\r\n".encode())

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip(), name="drip")
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    dripping.cancel()
    writer.close()


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come_is_not_waited_for(port: int, framing: str) -> None:
    answer, _ = await answer_to(port, f"{HEAD}{framing}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 0.5 s" in answer
    assert b"connection: close" in answer
