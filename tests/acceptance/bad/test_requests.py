"""Bad requests to the API, and bytes that are hardly requests at all."""

from __future__ import annotations

import json

import pytest
from plugins.attacked import Attacked, says
from plugins.penstock import Answer


def ask(attacked: Attacked, line: str, body: bytes = b"") -> Answer:
    """As somebody who may manage."""
    token = f"Authorization: Bearer {attacked.penstock.client['token']}"
    return attacked.ask(line, token, *(["Content-Type: application/json"] if body else []), body=body)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Authorization: Bearer",
        "Authorization: Bearer x",
        "Authorization: Basic x",
        "Authorization: Bearer é.é.é",
    ],
)
@pytest.mark.parametrize("line", ["GET /api/apps", "POST /api/apps", "GET /api/runs/1", "POST /api/tokens"])
def test_nobody_gets_in_with(attacked: Attacked, line: str, given: str) -> None:
    says(attacked.ask(line, *([given] if given else [])), 401, "token")


@pytest.mark.parametrize(
    ("line", "body", "status", "told"),
    [
        ("POST /api/apps", b"{", 422, "the body is not JSON"),
        ("POST /api/apps", b"[" * 100_000, 400, "error parsing the body"),
        ("POST /api/apps", b"\xff", 400, "error parsing the body"),
        ("POST /api/apps", b"[]", 422, "valid dictionary"),
        ("POST /api/apps", b'{"name": NaN}', 422, "name: Input should be a valid string"),
        ("POST /api/apps", b'{"name": "a", "x": 1}', 422, "x: Extra inputs are not permitted"),
        ("POST /api/apps", b'{"name": "\\ud800"}', 422, "name: "),
        ("POST /api/apps", b'{"name": "../x"}', 422, "use 1 to 40 of a-z"),
        ("POST /api/apps", b'{"name": "a\\u0000"}', 422, "use 1 to 40 of a-z"),
        ("POST /api/apps", b'{"name": "a", "branch": "a/.b"}', 422, "is not the name of a branch"),
        ("POST /api/apps", b'{"name": "a", "branch": "HEAD"}', 422, "is not the name of a branch"),
        ("POST /api/apps", b'{"name": "a", "branch": "refs/heads/main"}', 422, "is not the name of a branch"),
        ("POST /api/apps", b'{"name": "a", "branch": "--upload-pack=x"}', 422, "is not the name of a branch"),
        ("POST /api/apps", b"x" * 300_000, 413, "a body has at most 262144 bytes"),
        ("GET /api/runs/99999999999999999999", b"", 422, "less than or equal to 9223372036854775807"),
        ("GET /api/runs/-1", b"", 422, "greater than or equal to 1"),
        ("GET /api/runs/1e3", b"", 422, "valid integer"),
        ("GET /api/runs?limit=1000000", b"", 422, "less than or equal to 500"),
        ("GET /api/runs/1/logs/%2e%2e", b"", 422, "stage: "),
        ("GET /api/runs/1/logs/..%2f..%2ftoken.key", b"", 404, "Not Found"),
        ("GET /api/apps/shop%00", b"", 404, "no app 'shop\\\\x00'"),
        ("POST /api/apps/shop/rollback", b'{"version": 99999999999999999999}', 422, "version: "),
        ("POST /api/apps/shop/rollback", b'{"version": 1e400}', 422, "finite number"),
        ("POST /api/apps/shop/variables", b'{"variables": {"A=B": {"value": "x"}}}', 422, "variable 'A=B'"),
        ("POST /api/apps/shop/variables", b'{"variables": {"LD_PRELOAD": {"value": "x"}}}', 422, "LD_"),
        ("POST /api/apps/shop/variables", b'{"variables": {"A": {"value": "\\u0000"}}}', 422, "NUL"),
        ("POST /api/tokens", b'{"name": "x", "scope": "root"}', 422, "scope: "),
        ("POST /api/tokens", b'{"name": "x", "scope": "push", "seconds": 1e18}', 422, "seconds: "),
        ("POST /api/subscriptions", b'{"url": "file:///etc/passwd"}', 422, "begins with http://"),
        ("POST /api/subscriptions", b'{"url": "http://169.254.169.254/"}', 422, "metadata address"),
        ("DELETE /api/apps/shop", b"", 405, "Method Not Allowed"),
    ],
    ids=lambda one: ascii(one[:50]) if isinstance(one, str | bytes) and one else None,
)
def test_a_request(attacked: Attacked, line: str, body: bytes, status: int, told: str) -> None:
    says(ask(attacked, line, body), status, told)


@pytest.mark.parametrize(
    "repository",
    [
        "ext::sh -c touch% CANARY",
        "--upload-pack=touch CANARY",
        "-oProxyCommand=touch CANARY",
        "ssh://-oProxyCommand=touch%20CANARY/x",
        "ssh://git@-oProxyCommand=touch%20CANARY/x",
        "git@-oProxyCommand:x",
        "git@host:-x",
        "fd::17",
        "https://host/\nx",
        "javascript:1",
    ],
    ids=ascii,
)
def test_a_repository_that_git_or_ssh_would_take_for_an_order(attacked: Attacked, repository: str) -> None:
    new = {"name": "evil", "repository": repository.replace("CANARY", str(attacked.canary))}
    answer = ask(attacked, "POST /api/apps", json.dumps(new).encode())
    says(answer, 422, "use an https, ssh, git or file URL, or an absolute path")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000, id="a header without end"),
        pytest.param(b"GET /" + b"x" * 100_000, id="a path without end"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, id="headers without end"),
        pytest.param(
            b"GET / HTTP/1.1\r\nAuthorization: Bearer " + b"x" * 90_000 + b"\r\n\r\n", id="a long token"
        ),
    ],
)
def test_a_head_that_is_too_long(attacked: Attacked, head: bytes) -> None:
    answer = attacked.send(head)
    assert answer.status in (431, 0)  # where it is closed while we write, the answer may be lost
    if answer.status:
        says(answer, 431, "head is longer than 65,536 bytes")


@pytest.mark.parametrize(
    "rest", [b"a: b\r\n" * 20_000, b"1;" + b"x" * 100_000], ids=["trailers", "an extension"]
)
def test_a_body_followed_without_end_by(attacked: Attacked, rest: bytes) -> None:
    end = b"0\r\n" if rest.startswith(b"a") else b""
    start = b"POST /hooks/github/hooked HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
    answer = attacked.send(start + end + rest)
    assert answer.status in (431, 0)  # as above
    if answer.status:
        says(answer, 431, "more than 65,536 bytes came that are no body")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", id="TLS"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", id="a negative length"),
        pytest.param(b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="two framings",
        ),
        pytest.param(b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n", id="a NUL in a header"),
    ],
)
def test_what_is_no_request(attacked: Attacked, request_: bytes) -> None:
    says(attacked.send(request_), 400, "Invalid HTTP request")


def test_a_page_elsewhere_cannot_make_its_name_point_here(attacked: Attacked) -> None:
    """DNS rebinding: the dashboard knows its names; the API knows only its tokens, which no page has."""
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        asked = f"GET /sign-in HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        says(attacked.send(asked), 403, "answers only to names of this machine")
    api = b"GET /api/apps HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    says(attacked.send(api), 401, "a token is needed")
