"""Only tokens that this Penstock issued, unexpired and for the right app, let anyone in."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from penstock_pipeline.errors import Forbidden
from penstock_pipeline.tokens import AUDIENCE, ISSUER, Scope, Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "token.key")


def test_a_token_says_who_and_what_for(tokens: Tokens) -> None:
    identity = tokens.verify(tokens.issue("ann", Scope.PUSH, app="shop"))
    assert (identity.name, identity.may_push("shop"), identity.may_push("blog")) == ("ann", True, False)


def test_the_key_is_its_owners_alone_and_kept(tmp_path: Path, tokens: Tokens) -> None:
    assert (tmp_path / "token.key").stat().st_mode & 0o777 == 0o600
    assert Tokens(tmp_path / "token.key").verify(tokens.issue("ann", Scope.MANAGE)).name == "ann"


def test_a_key_that_a_crash_cut_off_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "token.key").touch()
    tokens = Tokens(tmp_path / "token.key")
    assert tokens.verify(tokens.issue("ann", Scope.MANAGE)).name == "ann"
    assert (tmp_path / "token.key").stat().st_mode & 0o777 == 0o600


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "iat": now,
        "exp": now + 60,
        "scope": "push",
        "app": None,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exp": int(time.time()) - 1}, "expired"),
        ({"iss": "someone"}, "not valid"),
        ({"aud": "another"}, "not valid"),
        ({"scope": "root"}, "not valid"),
        *(({name: ...}, "not valid") for name in ("iss", "aud", "sub", "iat", "exp", "scope")),
    ],
)
def test_a_token_that_is_not_whole_is_refused(
    tmp_path: Path, tokens: Tokens, changes: dict[str, Any], said: str
) -> None:
    token = jwt.encode(claims(**changes), (tmp_path / "token.key").read_bytes(), "HS256")
    with pytest.raises(Forbidden, match=said):
        tokens.verify(token)


def test_a_token_that_was_made_before_the_clock_was_set_back_is_good(tmp_path: Path, tokens: Tokens) -> None:
    made = claims(iat=int(time.time()) + 3600, exp=int(time.time()) + 7200)
    assert tokens.verify(jwt.encode(made, (tmp_path / "token.key").read_bytes(), "HS256")).name == "ann"


def test_a_token_of_another_key_or_without_signature_is_refused(tokens: Tokens) -> None:
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).rstrip(b"=").decode()
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=").decode()
    for token in (jwt.encode(claims(), b"k" * 32, "HS256"), f"{head}.{body}.", "", "nonsense", "a.b.c"):
        with pytest.raises(Forbidden):
            tokens.verify(token)
