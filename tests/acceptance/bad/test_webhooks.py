"""Bad webhooks: each is refused in words, and none of them becomes a run."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
from collections.abc import Iterator

import pytest
from plugins.attacked import Attacked, says
from plugins.penstock import Answer
from plugins.senders import COMMIT, SECRET, SENDERS, Sender, hexadecimal, push

DELIVERY = iter(range(1, 10_000))
GITHUB = SENDERS[0]
NO_REF, NO_COMMIT = "a push needs `ref`, a full one such as refs/heads/main", "a full commit id"
NO_SUCH = "webhooks go to /hooks/FORGE/APP"


@pytest.fixture
def refused(attacked: Attacked) -> Iterator[Attacked]:
    before = attacked.runs("hooked")
    yield attacked
    assert attacked.runs("hooked") == before


def lines(sender: Sender, body: bytes) -> list[str]:
    return [f"{name}: {value}" for name, value in sender.headers(body, f"bad-{next(DELIVERY)}").items()]


def deliver(attacked: Attacked, body: bytes, *headers: str, sender: Sender = GITHUB) -> Answer:
    """A delivery as the forge makes it, with headers besides."""
    return attacked.ask(f"POST /hooks/{sender.name}/hooked", *lines(sender, body), *headers, body=body)


@pytest.mark.parametrize("sender", SENDERS, ids=lambda one: f"{one.name} by {one.proof}")
@pytest.mark.parametrize("how", ["wrong", "short", "doubled", "empty", "missing", "of another body"])
def test_a_proof_that_is(refused: Attacked, sender: Sender, how: str) -> None:
    body = push(sender)
    given = sender.headers(body, "bad")
    proof = given.pop(sender.proof)
    proofs = {
        "wrong": [proof[:-4] + ("AAA=" if proof.endswith("=") else "0000")],
        "short": [proof[:-1]],
        "doubled": [proof, proof],
        "empty": [""],
        "missing": [],
        "of another body": [sender.headers(body + b" ", "bad")[sender.proof]],
    }[how]
    if how == "missing":
        given.pop("X-Gitlab-Token", None)  # which is a proof too
    if proof == SECRET and how == "of another body":
        proofs = [hexadecimal(body)]  # a token is no signature: an HMAC in its place proves nothing
    head = [f"{name}: {value}" for name, value in given.items()]
    head += [f"{sender.proof}: {one}" for one in proofs]
    answer = refused.ask(f"POST /hooks/{sender.name}/hooked", *head, body=body)
    says(answer, 401, "missing or wrong")


def test_a_signature_by_another_algorithm(refused: Attacked) -> None:
    body = push(GITHUB)
    old = hmac.new(SECRET.encode(), body, hashlib.sha1).hexdigest()
    for proof in (f"X-Hub-Signature: sha1={old}", f"X-Hub-Signature-256: sha1={old}"):
        head = ("X-GitHub-Event: push", "X-GitHub-Delivery: bad", proof)
        says(refused.ask("POST /hooks/github/hooked", *head, body=body), 401, "X-Hub-Signature-256")


@pytest.mark.parametrize(
    ("body", "says_so"),
    [
        pytest.param(b"[" * 100_000, "not JSON", id="a hundred thousand brackets"),
        pytest.param(b'{"a":' * 100_000, "not JSON", id="a hundred thousand objects"),
        pytest.param(b'{"ref": NaN}', "NaN is no number", id="NaN"),
        pytest.param(b'{"ref": -Infinity}', "-Infinity is no number", id="Infinity"),
        pytest.param(b'{"n": ' + b"9" * 100_000 + b"}", "not JSON", id="a number of 100,000 digits"),
        pytest.param(b'{"ref": "\\ud800", "after": "x"}', NO_REF, id="a lone surrogate"),
        pytest.param(b'{"ref": "a", "ref": "b"}', "stands twice", id="a name twice"),
        pytest.param(b'{"ref": "\xff"}', "not JSON", id="bytes that are no UTF-8"),
        pytest.param(b"[]", "not a JSON object", id="a list"),
        pytest.param(b"null", "not a JSON object", id="null"),
        pytest.param(b"", "not JSON", id="nothing"),
        pytest.param(push(GITHUB) + b"{}", "not JSON", id="two documents"),
    ],
)
def test_a_signed_body_of(refused: Attacked, body: bytes, says_so: str) -> None:
    says(deliver(refused, body), 400, says_so)


@pytest.mark.parametrize("ref", [None, 1, True, [], {}, "", "main", "REFS/HEADS/main"], ids=repr)
def test_a_ref_that_is_none(refused: Attacked, ref: object) -> None:
    says(deliver(refused, push(GITHUB, ref=ref)), 400, NO_REF)


@pytest.mark.parametrize(
    "ref",
    [
        "--upload-pack=touch canary",
        "$(id)",
        "`id`",
        "../..",
        "refs/heads/../main",
        "refs/heads/main\r\nX: y",
        "refs/heads/main\0",
        "refs/heads/main ",
        "refs/heads/main.lock",
        "refs/heads/@{1}",
    ],
    ids=ascii,
)
def test_a_ref_that_attacks(refused: Attacked, ref: str) -> None:
    says(deliver(refused, push(GITHUB, ref=ref)), 400, NO_REF)


@pytest.mark.parametrize(
    "commit",
    [
        None,
        1,
        [],
        "",
        "HEAD",
        COMMIT[:7],
        COMMIT.upper(),
        "g" * 40,
        "--upload-pack=".ljust(40, "a"),
        "１" * 40,
    ],
    ids=ascii,
)
def test_a_commit_that_is_none(refused: Attacked, commit: object) -> None:
    says(deliver(refused, push(GITHUB, after=commit)), 400, NO_COMMIT)


@pytest.mark.parametrize(
    "path",
    [
        "%2e%2e",
        "..%2fshop",
        "hooked%00",
        "hooked%0a",
        "a" * 300,
        "h%D0%BEoked",
        "HOOKED",
        "hooked%20",
    ],
)
def test_an_app_by_the_name_of(refused: Attacked, path: str) -> None:
    body = push(GITHUB)
    says(refused.ask(f"POST /hooks/github/{path}", *lines(GITHUB, body), body=body), 404, NO_SUCH)


@pytest.mark.parametrize("name", ["", "two words", "x" * 300, "é"])
def test_a_delivery_by_the_name_of(refused: Attacked, name: str) -> None:
    body = push(GITHUB)
    head = [line for line in lines(GITHUB, body) if "Delivery" not in line]
    answer = refused.ask("POST /hooks/github/hooked", *head, f"X-GitHub-Delivery: {name}", body=body)
    says(answer, 400, "X-GitHub-Delivery is missing or odd")


def test_a_body_of_a_gigabyte_is_not_waited_for(refused: Attacked) -> None:
    declared = refused.ask("POST /hooks/github/hooked", "Content-Length: 1000000000")
    says(declared, 413, "longer than 26,214,400 bytes")


def test_a_body_that_goes_on_and_on_is_not_read_to_its_end(refused: Attacked) -> None:
    piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    answer = refused.ask("POST /hooks/github/hooked", "Transfer-Encoding: chunked", body=piece * 27)
    assert answer.status in (413, 0)  # where it is closed while we write, the answer may be lost
    assert refused.penstock.api("/status")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "x"])
def test_a_body_that_is_compressed(refused: Attacked, encoding: str) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    says(deliver(refused, bomb, f"Content-Encoding: {encoding}"), 415, encoding, "send it as it is")


def test_a_form_is_told_how_to_become_json(refused: Attacked) -> None:
    body = b"payload=" + push(GITHUB)
    says(deliver(refused, body, "Content-Type: application/x-www-form-urlencoded"), 415, "application/json")


def test_another_repository_in_the_body_is_not_looked_at(attacked: Attacked) -> None:
    evil = {"clone_url": f"ext::touch {attacked.canary}", "ssh_url": "-oProxyCommand=x", "url": "file:///etc"}
    answer = deliver(attacked, push(GITHUB, after=attacked.commit, repository=evil))
    run = json.loads(answer.body)["run"]
    assert attacked.penstock.finished(run)["run"]["status"] == "succeeded"
