"""Bad pushes at the wire: broken packets and packs, odd names, tokens of others."""

from __future__ import annotations

import base64
import gzip
import os
import time

import jwt
import pytest
from plugins.attacked import NOWHERE, SIZE_LIMIT, Attacked, Object, blob, pack, packet, says

SERVICE = "/git/shop/info/refs?service=git-receive-pack"
NO_SENSE = "git makes no sense of this request"
NEW = f"{NOWHERE} {'1' * 40} refs/heads/main\0 report-status".encode()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"zzzz", id="no hexadecimal"),
        pytest.param(b"ffff", id="too long"),
        pytest.param(b"0003", id="too short"),
        pytest.param(b"-001", id="negative"),
        pytest.param(b"0x10", id="prefixed"),
        pytest.param(b"0009hello0000", id="no command"),
    ],
)
def test_packets_that_are_broken(attacked: Attacked, body: bytes) -> None:
    says(attacked.receive_pack(body), 400, NO_SENSE)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(b"PACK", "eof before pack header", id="ends in its head"),
        pytest.param(b"PACK\0\0\0\x02\0\0\0\x09", "unpack", id="holds less than it says"),
        pytest.param(b"KCAP" + b"\0" * 28, "unpack", id="is none"),
        pytest.param(pack()[:-1] + b"x", "unpack", id="has another checksum"),
        pytest.param(pack(), "missing necessary objects", id="does not hold the commit"),
        pytest.param(pack(Object("commit", b"x", 8 << 30)), "unpack", id="announces 8 GB of commit"),
        pytest.param(pack(Object("tree", b"x", 8 << 30)), "unpack", id="announces 8 GB of tree"),
        pytest.param(pack(Object("blob", b"x", 80 << 30)), "unpack", id="announces 80 GB of file"),
    ],
)
def test_a_pack_that(attacked: Attacked, body: bytes, told: str) -> None:
    answer = attacked.receive_pack(packet(NEW) + b"0000" + body)
    says(answer, 200, told, "ng refs/heads/main")


def test_a_pack_larger_than_the_limit_is_not_taken(attacked: Attacked) -> None:
    attacked.repository.git("switch", "--quiet", "--create", "large")
    (attacked.repository.folder / "noise").write_bytes(os.urandom(SIZE_LIMIT + 1))
    attacked.repository.commit()
    pushed = attacked.repository.push("penstock", "large")
    assert pushed.code == 1
    assert "pack exceeds maximum allowed size" in pushed.said
    attacked.repository.git("switch", "--quiet", "main")


@pytest.mark.parametrize(
    ("ref", "told"),
    [
        (b"refs/penstock/pushes/1", "hidden ref"),
        (b"HEAD", "funny refname"),
        (b"main", "funny refname"),
        (b"../config", "funny refname"),
        (b"--upload-pack=touch canary", "ng "),
        (b"refs/heads/../../config", "bad name"),
        (b"refs/heads/a..b", "bad name"),
        (b"refs/heads/shop.lock", "bad name"),
        (b"refs/heads/@{1}", "bad name"),
        (b"refs/heads/a\rb", "plain text in UTF-8"),
        (b"refs/heads/\x1b[31m", "plain text in UTF-8"),
        (b"refs/heads/\xff", "plain text in UTF-8"),
        (b"refs/heads/" + b"x" * 300, "does not move"),
        (b"refs/heads/main/below", "cannot keep main/below beside main"),
    ],
    ids=ascii,
)
def test_a_push_to(attacked: Attacked, ref: bytes, told: str) -> None:
    pushed = attacked.push_pack(blob(b"x"), commit := attacked.on_top(Object("tree", b"")), ref=ref)
    assert pushed.code == 1, (pushed.said, commit.id)
    assert told in pushed.said


def test_a_hidden_ref_is_not_deleted(attacked: Attacked) -> None:
    command = f"{attacked.tip} {NOWHERE} refs/penstock/pushes/1\0 report-status".encode()
    says(attacked.receive_pack(packet(command) + b"0000"), 200, "deny deleting a hidden ref")


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_request_that_is_compressed_and_grows(attacked: Attacked, encoding: str) -> None:
    bomb = gzip.compress(b"f" * 50_000_000)
    says(attacked.receive_pack(bomb, f"Content-Encoding: {encoding}"), 400, NO_SENSE)


@pytest.mark.parametrize(
    "path",
    [
        "/git/shop/../../etc/passwd",
        "/git/shop/%2e%2e/hooked/info/refs",
        "/git/shop%00/info/refs",
        "/git/shop%0a/info/refs",
        "/git/sh%D0%BEp/info/refs",
        f"/git/{'a' * 300}/info/refs",
        "/git/shop/HEAD",
        "/git/shop/config",
        "/git/shop/objects/info/packs",
        "/git/shop/git-upload-archive",
        "/git/shop/info/refs%3fservice=git-upload-pack",
    ],
)
def test_a_path_such_as(attacked: Attacked, path: str) -> None:
    says(attacked.ask(f"GET {path}", attacked.basic), 404, "a git remote of Penstock looks like /git/APP")


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /git/shop/info/refs", 403),
        ("GET /git/shop/info/refs?service=git-upload-archive", 403),
        ("GET /git/shop/info/refs?service=git-receive-pack;touch", 403),
        ("PUT /git/shop/info/refs", 400),
        ("PROPFIND /git/shop/info/refs", 400),
        ("GET /git/shop/git-receive-pack", 400),
    ],
)
def test_a_request_of_another_protocol(attacked: Attacked, line: str, status: int) -> None:
    says(attacked.ask(line, attacked.basic), status, NO_SENSE)


def forged(key: str = "", algorithm: str = "none", **claims: object) -> str:
    right = {"sub": "ann", "scope": "manage", "app": None, "iss": "penstock", "aud": "penstock-pipeline"}
    return jwt.encode({**right, "iat": 1, "exp": time.time() + 999, **claims}, key, algorithm)


TOKENS = {
    "none": "",
    "spaces": "   ",
    "no token at all": "x",
    "three words": "a.b.c",
    "a NUL": "a\0b.c.d",
    "letters beyond ASCII": "é.ü.ß",
    "unsigned": forged(),
    "signed by another key": forged("k" * 32, "HS256"),
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_a_token_that_is(attacked: Attacked, token: str) -> None:
    basic = base64.b64encode(f"ann:{token}".encode()).decode()
    says(attacked.ask(f"GET {SERVICE}", f"Authorization: Basic {basic}"), 401, "penstock token")


def test_a_token_of_another_app_or_in_the_place_of_the_user(attacked: Attacked) -> None:
    other = attacked.penstock.api("/tokens", {"name": "eve", "scope": "push", "app": "hooked"})["token"]
    foreign = base64.b64encode(f"eve:{other}".encode()).decode()
    says(attacked.ask(f"GET {SERVICE}", f"Authorization: Basic {foreign}"), 401, "not for shop")
    own = base64.b64decode(attacked.basic.rpartition(" ")[2]).decode().partition(":")[2]
    as_user = base64.b64encode(f"{own}:".encode()).decode()
    says(attacked.ask(f"GET {SERVICE}", f"Authorization: Basic {as_user}"), 401, "not valid here")


def test_a_session_of_the_dashboard_is_no_token(attacked: Attacked) -> None:
    path = attacked.penstock.api("/invitations", {})["path"]
    form = f"token={path.partition('#')[2]}".encode()
    kind = "Content-Type: application/x-www-form-urlencoded"
    signed_in = attacked.ask("POST /sign-in", kind, "Sec-Fetch-Site: same-origin", body=form)
    cookie = signed_in.headers["set-cookie"].partition("=")[2].partition(";")[0]
    basic = base64.b64encode(f"ann:{cookie}".encode()).decode()
    says(attacked.ask(f"GET {SERVICE}", f"Authorization: Basic {basic}"), 401, "not valid here")
    says(attacked.ask("GET /api/apps", f"Authorization: Bearer {cookie}"), 401, "not valid here")


def test_a_good_push_still_goes_live(attacked: Attacked) -> None:
    added = attacked.penstock.add("after")
    added.commit({"index.html": "<h1>after</h1>\n"})
    assert added.push().code == 0
    assert attacked.penstock.api("/apps/after")["live"]["label"] == "v1"
