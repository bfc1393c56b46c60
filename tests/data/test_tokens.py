"""Only tokens that this service's key signed, for it, in their time, let anyone in; and the same one is
verified once."""

from __future__ import annotations

import asyncio
import base64
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from penstock_data import tokens
from penstock_data.errors import InvalidSettings, Unauthenticated
from penstock_data.tokens import LEEWAY, LONGEST, Identity, KeyVerifier, Remembered, Verifier, issue, key_in

NOW = 1_800_000_000
KEY = b"k" * 32
ISSUER, AUDIENCE = "penstock-data", "penstock-data/shop"


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def verifier(tmp_path: Path, clock: Clock) -> KeyVerifier:
    (tmp_path / "key").write_bytes(KEY)
    return KeyVerifier(tmp_path / "key", issuer=ISSUER, audience=AUDIENCE, clock=clock)


def claims(**changes: Any) -> dict[str, Any]:
    """Good ones, with changes; a claim that is `...` is left out."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": NOW, "exp": NOW + 60, "scope": "data:read"}
    return {name: value for name, value in {**good, **changes}.items() if value is not ...}


def signed(**changes: Any) -> str:
    return jwt.encode(claims(**changes), KEY, "HS256")


def part(document: object) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def signed_text(payload: str, header: str = '{"alg":"HS256","typ":"JWT"}') -> str:
    """A good signature over whatever text."""
    head_and_body = f"{part(header)}.{part(payload)}"
    algorithm = jwt.get_algorithm_by_name("HS256")
    signature = algorithm.sign(head_and_body.encode(), algorithm.prepare_key(KEY))
    return f"{head_and_body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def asked(verifier: Verifier, token: str | bytes, scheme: bytes = b"Bearer ") -> Identity:
    told = token if isinstance(token, bytes) else token.encode()
    return asyncio.run(verifier.verify(scheme + told))


def refused(verifier: Verifier, token: str | bytes) -> str:
    with pytest.raises(Unauthenticated) as raised:
        asked(verifier, token)
    assert raised.value.headers == {"WWW-Authenticate": "Bearer"}
    return raised.value.detail


def test_a_token_says_who_asks_and_what_he_may(verifier: KeyVerifier, clock: Clock) -> None:
    token = issue(
        KEY,
        issuer=ISSUER,
        audience=AUDIENCE,
        subject="ann",
        tenant="shop",
        scopes=["data:write", "pool:admin"],
        seconds=60,
        clock=clock,
    )
    who = asked(verifier, token)
    assert who == Identity("ann", "shop", frozenset(("data:write", "pool:admin")), NOW + 60)
    assert (who.may_read, who.may_write, who.may_admin) == (True, True, True)


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("data:read", (True, False, False)),
        (["data:read", "pool:admin"], (True, False, True)),
        ("data:write", (True, True, False)),
        ("openid data:reader DATA:WRITE", (False, False, False)),
        ("", (False, False, False)),
        (..., (False, False, False)),
    ],
)
def test_scopes_are_text_or_a_list_and_only_those_that_are_known_let_do_anything(
    verifier: KeyVerifier, scope: Any, may: tuple[bool, ...]
) -> None:
    who = asked(verifier, signed(scope=scope))
    assert (who.may_read, who.may_write, who.may_admin) == may


def test_without_a_tenant_the_subject_is_the_tenant(verifier: KeyVerifier) -> None:
    assert asked(verifier, signed()).tenant == "ann"
    assert asked(verifier, signed(tenant="größe")).tenant == "größe"


def test_the_scheme_is_read_in_any_case_and_an_audience_may_be_one_of_several(verifier: KeyVerifier) -> None:
    assert asked(verifier, signed(aud=["another", AUDIENCE]), b"bEARER   ").name == "ann"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "someone"},
        {"iss": [ISSUER]},
        {"aud": "penstock-data/other"},
        {"aud": []},
        {"aud": {AUDIENCE: 1}},
        {"iat": NOW + LEEWAY + 1},
        {"nbf": NOW + LEEWAY + 1},
        {"nbf": "soon"},
        {"iat": "1"},
        {"iat": True},
        {"exp": str(NOW + 60)},
        {"exp": True},
        {"exp": 10**400},
        {"exp": [NOW + 60]},
        {"sub": 7},
        {"sub": ""},
        {"sub": "a" * 256},
        {"sub": "ann\nadmin"},
        {"tenant": 7},
        {"tenant": ""},
        {"tenant": None},
        {"tenant": "a\x00"},
        {"scope": 7},
        {"scope": {"data:read": True}},
        {"scope": ["data:read", 7]},
        *({name: ...} for name in ("iss", "aud", "sub", "iat", "exp")),
        *({name: None} for name in ("iss", "aud", "sub", "iat", "exp")),
    ],
    ids=str,
)
def test_a_token_whose_claims_are_not_all_good_is_not_valid(
    verifier: KeyVerifier, changes: dict[str, Any]
) -> None:
    payload = json.dumps(claims(**changes))
    assert refused(verifier, signed_text(payload)) == "the token is not valid here"


def test_only_of_an_expired_one_it_is_said_why(verifier: KeyVerifier) -> None:
    assert refused(verifier, signed(exp=NOW)) == "the token has expired"
    assert refused(verifier, signed(exp=-(10.0**300))) == "the token has expired"
    assert "expired" not in refused(verifier, signed(exp=NOW - 1, aud="another"))
    assert "expired" not in refused(verifier, jwt.encode(claims(exp=NOW - 1), b"o" * 32, "HS256"))


def test_an_issuers_clock_may_be_a_little_ahead(verifier: KeyVerifier) -> None:
    assert asked(verifier, signed(iat=NOW + LEEWAY, nbf=NOW + LEEWAY)).name == "ann"


def test_no_signature_is_no_token(verifier: KeyVerifier) -> None:
    body = part(claims())
    for alg in ("none", "None", "NONE", "", None, "HS256", ["HS256"], 7):
        for signature in ("", "x", "AAAA"):
            refused(verifier, f"{part({'alg': alg})}.{body}.{signature}")
    refused(verifier, f"{part({})}.{body}.")
    good = signed().split(".")
    refused(verifier, f"{part({'alg': 'none'})}.{good[1]}.{good[2]}")


def test_another_key_or_algorithm_is_refused_be_the_secret_right_or_not(verifier: KeyVerifier) -> None:
    refused(verifier, jwt.encode(claims(), b"o" * 32, "HS256"))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        others = [jwt.encode(claims(), KEY, each) for each in ("HS384", "HS512")]
    for token in others:
        refused(verifier, token)
    pair = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    refused(verifier, jwt.encode(claims(), pair, "RS256"))


def test_what_the_header_names_as_a_key_is_not_looked_at(verifier: KeyVerifier) -> None:
    mine = b"m" * 32
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(mine).decode(), "kid": "../../dev/null"}
    for more in (
        {"jwk": jwk},
        {"jku": "http://127.0.0.1/keys"},
        {"x5u": "http://127.0.0.1/"},
        {"kid": "/dev/null"},
    ):
        refused(verifier, jwt.encode(claims(), mine, "HS256", headers=more))
        assert asked(verifier, jwt.encode(claims(), KEY, "HS256", headers=more)).name == "ann"
    refused(verifier, jwt.encode(claims(), KEY, "HS256", headers={"crit": ["mine"], "mine": 1}))


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps(claims())[:-1] + ', "sub": "root"}',
        json.dumps(claims())[:-1] + f', "exp": {NOW + 10**9}}}',
        json.dumps(claims())[:-1] + ', "more": {"a": 1, "a": 2}}',
        json.dumps(claims()).replace(str(NOW + 60), "NaN"),
        json.dumps(claims()).replace(str(NOW + 60), "Infinity"),
        json.dumps(claims()).replace(str(NOW + 60), "1e999"),
        json.dumps(claims()).replace(str(NOW + 60), "9" * 5000),
        json.dumps([claims()]),
        "[" * 3000,
        '"ann"',
        "null",
        "",
        "{",
    ],
    ids=lambda text: text[-30:],
)
def test_claims_that_are_there_twice_or_no_json_are_refused_even_when_they_are_signed(
    verifier: KeyVerifier, payload: str
) -> None:
    assert refused(verifier, signed_text(payload)) == "the token is not valid here"


def test_a_header_that_names_two_algorithms_has_one_meaning(verifier: KeyVerifier) -> None:
    refused(verifier, signed_text(json.dumps(claims()), '{"alg":"HS256","alg":"none"}'))
    asked(verifier, signed_text(json.dumps(claims()), '{"alg":"none","alg":"HS256"}'))


def test_a_token_that_is_cut_or_changed_anywhere_is_refused(verifier: KeyVerifier) -> None:
    token = signed()
    for length in range(len(token)):
        refused(verifier, token[:length])
    for at in range(len(token)):
        refused(verifier, token[:at] + ("B" if token[at] != "B" else "C") + token[at + 1 :])
    refused(verifier, token + "." + token)
    refused(verifier, token.replace(".", "..", 1))


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer    ",
        b"Basic YTpi",
        b"bearerx",
        b"Digest x",
        b" Bearer x",
        b"\x00",
    ],
)
def test_who_sends_no_bearer_token_is_told_to(verifier: KeyVerifier, header: bytes | None) -> None:
    with pytest.raises(Unauthenticated, match="Authorization: Bearer"):
        asyncio.run(verifier.verify(header))


def test_bytes_beyond_ascii_and_a_token_that_is_too_long_are_refused(verifier: KeyVerifier) -> None:
    refused(verifier, signed().encode() + "ä".encode())
    refused(verifier, b"\xff\xfe.\x80.\x00")
    refused(verifier, b"a.b\n.c")
    refused(verifier, signed(more="x" * LONGEST))
    assert asked(verifier, signed(more="x" * (LONGEST // 2))).name == "ann"


@given(st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: part(text).encode())))
def test_whatever_is_sent_is_refused_and_nothing_else(token: bytes) -> None:
    for each in (token, token + b"." + token + b".", b"eyJhbGciOiJIUzI1NiJ9." + token + b"." + token):
        with pytest.raises(Unauthenticated):
            tokens.Rules(ISSUER, AUDIENCE, lambda: NOW).identity(each, KEY, ("HS256",))


# -- what is remembered


def test_the_same_header_is_verified_once_until_the_token_expires(
    verifier: KeyVerifier, clock: Clock
) -> None:
    header = b"Bearer " + signed().encode()
    assert verifier.known(header) is None
    who = asyncio.run(verifier.verify(header))
    assert verifier.known(bytes(header)) is who
    clock.now = NOW + 59.9
    assert verifier.known(header) is who
    clock.now = NOW + 60.0
    assert verifier.known(header) is None
    assert refused(verifier, signed()) == "the token has expired"


def test_a_bad_token_and_one_of_many_spaces_are_not_remembered(verifier: KeyVerifier) -> None:
    spaced = b"Bearer      " + signed().encode()
    assert asyncio.run(verifier.verify(spaced)).name == "ann"
    refused(verifier, "a.b.c")
    assert verifier.known(spaced) is None
    assert len(verifier._remembered) == 0


def test_those_used_last_are_remembered_in_number_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_REMEMBERED", 3)
    monkeypatch.setattr(tokens, "_REMEMBERED_BYTES", 1000)
    remembered, who = Remembered(lambda: NOW), Identity("ann", "ann", frozenset(), NOW + 60)
    for each in (b"a", b"b", b"c"):
        remembered.add(b"Bearer " + each, each, who)
    assert remembered.known(b"Bearer a")
    remembered.add(b"Bearer d", b"d", who)
    remembered.add(b"Bearer d", b"d", who)
    assert [bool(remembered.known(b"Bearer " + each)) for each in (b"a", b"b", b"c", b"d")] == [1, 0, 1, 1]
    long = b"x" * 990
    remembered.add(b"Bearer " + long, long, who)
    assert (len(remembered), remembered._bytes) == (1, 997)
    remembered.clear()
    assert (len(remembered), remembered._bytes) == (0, 0)


# -- the key


def test_a_key_is_made_for_its_owner_alone_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "state" / "key"
    key = key_in(file)
    assert (len(key) >= 32, file.stat().st_mode & 0o777, key_in(file)) == (True, 0o600, key)
    assert [each.name for each in file.parent.iterdir()] == ["key"]


def test_several_who_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as threads:
        keys = list(threads.map(key_in, [tmp_path / "key"] * 64))
    assert len(set(keys)) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_newline_at_the_end_of_a_key_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\r\n")
    assert key_in(tmp_path / "key") == KEY


@pytest.mark.parametrize("content", [b"", b"short\n", b"k" * 31])
def test_a_key_that_is_too_short_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(InvalidSettings, match=r"key has \d+ bytes; allowed are 32"):
        key_in(tmp_path / "key")


def test_a_public_key_is_no_key_to_sign_with(tmp_path: Path) -> None:
    public = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "key").write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    with pytest.raises(InvalidSettings, match="another algorithm"):
        key_in(tmp_path / "key")


def test_a_key_that_cannot_be_read_or_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for file in (tmp_path / "folder", tmp_path / "file" / "key"):
        with pytest.raises(InvalidSettings, match=r"the key .*: [IF]"):
            key_in(file)
