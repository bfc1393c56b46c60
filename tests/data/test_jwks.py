"""Tokens of an identity provider: only its own keys count, they follow when they are rotated, and neither a
flood nor an outage of its address makes the service slow."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from plugins.house import eventually
from plugins.virtual import run

from penstock_data import jwks
from penstock_data.errors import InvalidSettings, Unauthenticated, Unavailable
from penstock_data.jwks import AGAIN, FRESH, LARGEST, STALE, UNKNOWN, JwksVerifier

NOW = 1_800_000_000
ISSUER, AUDIENCE = "https://login.example.com/", "penstock-data/shop"

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def public(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    """As a JWKS tells it; a member that is `...` is left out."""
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256"
    told = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    told.pop("key_ops", None)
    told = {**told, "use": "sig", "alg": algorithm, "kid": kid, **more}
    return {name: value for name, value in told.items() if value not in (..., None)}


def token(key: Any = RSA, kid: str | None = "one", alg: str = "RS256", **changes: Any) -> bytes:
    """The header of a request with a good token, but for what is changed."""
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": NOW, "exp": NOW + 10**7, **changes}
    headers = {} if kid is None else {"kid": kid}
    return b"Bearer " + jwt.encode(claims, key, alg, headers=headers).encode()


def pem(key: Any) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    encoded: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    return encoded


class Provider:
    """An identity provider on a loopback port: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[Any] = [public(RSA, "one"), public(EC, "two")]
        self.head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
        self.body: bytes | None = None
        self.asked = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.url = ""

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            await self.goes_on.wait()
            body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
            writer.write(self.head + b"\r\n" + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def answer(self, _: httpx.Request) -> httpx.Response:
        """The same without a network."""
        self.asked += 1
        return httpx.Response(200, stream=httpx.ByteStream(json.dumps({"keys": self.keys}).encode()))

    def fail(self, _: httpx.Request) -> httpx.Response:
        self.asked += 1
        raise httpx.ConnectError("refused")


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    there = Provider()
    server = await asyncio.start_server(there.talk, "127.0.0.1", 0)
    there.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys"
    try:
        yield there
    finally:
        there.goes_on.set()
        server.close()


def verifier(url: str = "https://login.example.com/keys", **more: Any) -> JwksVerifier:
    return JwksVerifier(url, issuer=ISSUER, audience=AUDIENCE, clock=lambda: NOW, **more)


def on_virtual_time(there: Provider) -> JwksVerifier:
    """The provider's `answer` is looked up each time."""
    transport = httpx.MockTransport(lambda request: there.answer(request))
    return verifier(transport=transport, monotonic=asyncio.get_running_loop().time)


async def refused(by: JwksVerifier, header: bytes) -> None:
    with pytest.raises(Unauthenticated, match="not valid here"):
        await by.verify(header)


async def test_a_token_of_the_providers_keys_is_good_by_rsa_and_by_elliptic_curve() -> None:
    async with provider() as there, verifier(there.url) as by:
        assert (await by.verify(token(scope="data:read"))).may_read
        header = token(EC, "two", "ES256", sub="bob", tenant="shop")
        who = await by.verify(header)
        assert (who.name, who.tenant, by.known(header)) == ("bob", "shop", who)
        assert there.asked == 1


async def test_a_public_key_is_never_a_secret() -> None:
    async with provider() as there, verifier(there.url) as by:
        there.keys += [{"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "secret", "use": "sig"}]
        document = json.dumps(public(RSA, "one")).encode()
        for secret in (pem(RSA), pem(RSA).strip(), document, b"secret" * 8):
            for kid in ("one", "two", "secret", None):
                await refused(by, hs256(secret, kid))


def hs256(secret: bytes, kid: str | None) -> bytes:
    """Signed by hand: PyJWT itself refuses to take a public key for a secret."""
    made = token(b"s" * 32, kid, "HS256").removeprefix(b"Bearer ")
    signed, _ = made.rsplit(b".", 1)
    algorithm = jwt.get_algorithm_by_name("HS256")
    return b"Bearer " + signed + b"." + jwt.utils.base64url_encode(algorithm.sign(signed, secret))


async def test_an_algorithm_goes_with_its_key() -> None:
    async with provider() as there, verifier(there.url) as by:
        await refused(by, token(RSA, "two"))
        await refused(by, token(EC, "one", "ES256"))
        for alg in ("RS384", "RS512", "PS256"):
            await refused(by, token(RSA, "one", alg))
        for header in ({"alg": "none", "kid": "one"}, {"alg": ["RS256"], "kid": "one"}, {"kid": "one"}):
            made = token().removeprefix(b"Bearer ").split(b".")
            head = jwt.utils.base64url_encode(json.dumps(header).encode())
            for signature in (b"", made[2]):
                await refused(by, b"Bearer " + b".".join((head, made[1], signature)))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example.com/"},
        {"aud": "penstock-data/other"},
        {"iat": NOW + 60},
        {"nbf": NOW + 60},
        {"sub": None},
        {"exp": None},
    ],
    ids=str,
)
async def test_the_claims_must_be_good_as_well(changes: dict[str, Any]) -> None:
    async with provider() as there, verifier(there.url) as by:
        await refused(by, token(**changes))
        with pytest.raises(Unauthenticated, match="expired"):
            await by.verify(token(exp=NOW))


async def test_what_a_header_names_as_a_key_is_neither_used_nor_fetched() -> None:
    async with provider() as there, provider() as evil, verifier(there.url) as by:
        mine = public(OTHER_RSA, "one")
        evil.keys = [mine]
        for more in ({"jku": evil.url}, {"x5u": evil.url}, {"jwk": mine}, {"x5c": ["MIIB"]}):
            for kid in ("one", "../../etc/passwd", "' OR 1=1 --", evil.url, "x" * 3000):
                claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "iat": NOW, "exp": NOW + 60}
                made = jwt.encode(claims, OTHER_RSA, "RS256", headers={"kid": kid, **more})
                await refused(by, b"Bearer " + made.encode())
        assert evil.asked == 0
        assert there.asked <= 2


@pytest.mark.parametrize("kid", [7, None, ["one"], {"a": 1}, True])
async def test_a_kid_that_is_no_text_is_refused(kid: Any) -> None:
    async with provider() as there, verifier(there.url) as by:
        made = token().removeprefix(b"Bearer ").split(b".")
        head = jwt.utils.base64url_encode(json.dumps({"alg": "RS256", "kid": kid}).encode())
        await refused(by, b"Bearer " + b".".join((head, made[1], made[2])))


async def test_a_token_without_a_kid_is_meant_for_the_only_key() -> None:
    async with provider() as there:
        async with verifier(there.url) as by:
            await refused(by, token(kid=None))
        there.keys = [public(RSA)]
        async with verifier(there.url) as by:
            assert (await by.verify(token(kid=None))).name == "ann"
            await refused(by, token(OTHER_RSA, kid=None))


async def test_only_public_keys_for_signatures_of_a_good_size_are_used() -> None:
    with_private = jwt.get_algorithm_by_name("RS256").to_jwk(RSA, as_dict=True)
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    edwards = jwt.get_algorithm_by_name("EdDSA").to_jwk(
        ed25519.Ed25519PrivateKey.generate().public_key(), as_dict=True
    )
    bad = [
        public(RSA, "a", use="enc"),
        public(RSA, "b", alg="RS512"),
        public(RSA, "c", alg="HS256"),
        public(RSA, "d", key_ops=["encrypt"]),
        public(RSA, "e", key_ops=7),
        public(RSA, "f", kty="EC"),
        public(RSA, "g", kty="rsa"),
        public(RSA, "h", n="!!"),
        public(RSA, "i", e="AQ"),
        public(EC, "j", crv="P-384"),
        public(EC, "k", x="AAAA"),
        public(EC, "l", kty="RSA"),
        {**with_private, "kid": "m"},
        {**edwards, "kid": "n"},
        public(small, "o"),
        {**public(RSA), "kid": 7},
        public(RSA, "p", kty=["RSA"]),
        "text",
        None,
        {},
    ]
    async with provider() as there:
        there.keys = [*bad, public(RSA, "one", use=..., alg=...)]
        async with verifier(there.url) as by:
            assert (await by.verify(token())).name == "ann"
            assert by._keys is not None
            assert list(by._keys.by_kid) == ["one"]


@pytest.mark.parametrize(
    "url",
    [
        "http://login.example.com/keys",
        "http://10.0.0.1/keys",
        "http://127.0.0.1.example.com/",
        "http://localhost.example.com/",
        "ftp://127.0.0.1/keys",
        "file:///etc/passwd",
        "//127.0.0.1/",
        "keys.json",
        "http://",
        "http://[::1/",
        "",
    ],
)
def test_the_address_is_https_or_on_this_machine(url: str) -> None:
    with pytest.raises(InvalidSettings, match="jwks_url"):
        verifier(url)
    for good in (
        "https://login.example.com/keys",
        "http://[::1]:80/k",
        "http://localhost/",
        "http://127.9.9.9/",
    ):
        verifier(good)


# -- what the address does


async def test_no_keys_ever_is_told_as_that() -> None:
    async with provider() as there:
        there.head = b"HTTP/1.1 500 Oops\r\nConnection: close\r\n"
        async with verifier(there.url) as by:
            with pytest.raises(Unavailable, match="keys") as raised:
                await by.verify(token())
            assert raised.value.headers["Retry-After"] == str(int(AGAIN))


BAD = {
    "a redirect": (b"HTTP/1.1 302 Found\r\nLocation: https://evil.example.com/\r\n", b""),
    "an error": (b"HTTP/1.1 404 Not Found\r\n", b""),
    "no JSON": (b"HTTP/1.1 200 OK\r\n", b"<html>"),
    "deep": (b"HTTP/1.1 200 OK\r\n", b"[" * 100_000),
    "a list": (b"HTTP/1.1 200 OK\r\n", b"[]"),
    "no list of keys": (b"HTTP/1.1 200 OK\r\n", b'{"keys": {}}'),
    "no keys": (b"HTTP/1.1 200 OK\r\n", b'{"keys": []}'),
    "many keys": (b"HTTP/1.1 200 OK\r\n", json.dumps({"keys": [{}] * 101}).encode()),
    "bytes": (b"HTTP/1.1 200 OK\r\n", b"\xff\xfe\x00"),
    "cut": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n", b'{"keys": ['),
    "huge": (b"HTTP/1.1 200 OK\r\n", b" " * (LARGEST + 1)),
    "a bomb": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n", gzip.compress(b" " * 10_000_000)),
    "no HTTP": (b"\x00\x01\x02\r\n", b"\x03"),
}


@pytest.mark.parametrize("what", BAD)
async def test_a_bad_answer_leaves_the_last_keys_and_is_logged_once(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "penstock_data")
    async with provider() as there, verifier(there.url, fresh=0.02) as by:
        await by.verify(token())
        there.head, there.body = BAD[what]
        there.head += b"Connection: close\r\n"
        before = there.asked
        await eventually(lambda: there.asked > before + 3)
        assert (await by.verify(token(sub="bob"))).name == "bob"
        assert len(caplog.records) == 1
        assert "127.0.0.1" in caplog.text


async def test_an_endless_answer_ends_where_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
                sent += 65536
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with verifier(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/") as by:
        with pytest.raises(Unavailable):
            await by.verify(token())
    assert sent < 32 * 1024**2  # what fits in the buffers of the two sockets
    server.close()


async def test_an_address_that_does_not_answer_holds_up_nobody_who_has_a_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with provider() as there, verifier(there.url) as by:
        await by.verify(token())
        there.goes_on.clear()
        waiting = asyncio.create_task(by.verify(token(kid="unknown")))
        await eventually(lambda: there.asked == 2)
        assert (await by.verify(token(sub="bob"))).name == "bob"
        assert not waiting.done()
        there.goes_on.set()
        with pytest.raises(Unauthenticated):
            await waiting


async def test_a_fetch_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "PATIENCE", 0.05)
    async with provider() as there:
        there.goes_on.clear()
        async with verifier(there.url) as by:
            with pytest.raises(Unavailable):
                await by.verify(token())


async def test_who_waits_for_the_first_keys_gets_them_and_leaving_ends_no_fetch() -> None:
    async with provider() as there:
        there.goes_on.clear()
        async with verifier(there.url) as by:
            first, second = (asyncio.create_task(by.verify(token())) for _ in range(2))
            await eventually(lambda: there.asked == 1)
            first.cancel()
            there.goes_on.set()
            assert (await second).name == "ann"
            assert first.cancelled()
            assert there.asked == 1


async def test_closing_while_a_fetch_is_under_way_leaves_no_task() -> None:
    async with provider() as there:
        there.goes_on.clear()
        async with verifier(there.url) as by:
            waiting = asyncio.create_task(by.verify(token()))
            await eventually(lambda: there.asked == 1)
        with pytest.raises(Unavailable):
            await waiting
        assert not [task for task in asyncio.all_tasks() if "penstock-data" in task.get_name()]


async def test_a_key_that_was_rotated_in_is_used_at_once_and_one_that_was_withdrawn_no_more() -> None:
    async with provider() as there, verifier(there.url, fresh=0.05) as by:
        old = token()
        await by.verify(old)
        there.keys = [public(OTHER_RSA, "three"), public(RSA, "one")]
        assert (await by.verify(token(OTHER_RSA, "three"))).name == "ann"
        assert by.known(old) is not None or (await by.verify(old)).name == "ann"
        there.keys = [public(OTHER_RSA, "three")]
        await eventually(lambda: by.known(old) is None)
        await refused(by, old)


async def test_a_kid_that_gets_another_key_forgets_what_the_first_one_verified() -> None:
    async with provider() as there, verifier(there.url, fresh=0.05) as by:
        old = token()
        await by.verify(old)
        there.keys = [public(OTHER_RSA, "one")]
        await eventually(lambda: by.known(old) is None)
        await refused(by, old)


# -- on virtual time


def test_a_flood_of_unknown_kids_makes_few_fetches() -> None:
    async def flood() -> None:
        there, loop = Provider(), asyncio.get_running_loop()
        async with on_virtual_time(there) as by:
            await by.verify(token())
            for _ in range(100):
                headers = [token(kid=f"{loop.time()} {each}") for each in range(3)]
                said = await asyncio.gather(*map(by.verify, headers), return_exceptions=True)
                assert all(isinstance(each, Unauthenticated) for each in said)
                await asyncio.sleep(1)
            assert there.asked == 1 + 100 // UNKNOWN

    run(flood())


def test_a_new_key_is_found_at_the_latest_when_the_next_fetch_is_due() -> None:
    async def rotated() -> None:
        there = Provider()
        async with on_virtual_time(there) as by:
            await refused(by, token(kid="flood"))
            there.keys = [public(OTHER_RSA, "new")]
            await refused(by, token(OTHER_RSA, "new"))
            await asyncio.sleep(UNKNOWN)
            assert (await by.verify(token(OTHER_RSA, "new"))).name == "ann"

    run(rotated())


def test_keys_are_fetched_again_when_they_are_no_longer_fresh() -> None:
    async def an_hour() -> None:
        there = Provider()
        async with on_virtual_time(there):
            await asyncio.sleep(3600 - 1)
            assert there.asked == 3600 / FRESH

    run(an_hour())


def test_keys_outlive_an_outage_of_a_day_but_not_more_and_are_back_soon_after() -> None:
    async def outage() -> None:
        there = Provider()
        async with on_virtual_time(there) as by:
            header, answers = token(), there.answer
            await by.verify(header)
            there.answer = there.fail  # type: ignore[method-assign]
            await asyncio.sleep(STALE - 1)
            assert (await by.verify(token(sub="bob"))).name == "bob"
            assert by.known(header) is not None
            await asyncio.sleep(AGAIN + FRESH)
            assert by.known(header) is None
            with pytest.raises(Unavailable):
                await by.verify(header)
            there.answer = answers  # type: ignore[method-assign]
            await asyncio.sleep(AGAIN)
            assert (await by.verify(header)).name == "ann"

    run(outage())


def test_an_outage_is_asked_about_every_few_seconds_not_more() -> None:
    async def outage() -> None:
        there = Provider()
        there.answer = there.fail  # type: ignore[method-assign]
        async with on_virtual_time(there) as by:
            for _ in range(100):
                for kid in ("one", "unknown"):
                    with pytest.raises(Unavailable):
                        await by.verify(token(kid=kid))
                await asyncio.sleep(1)
            assert there.asked <= 2 * (1 + 100 // AGAIN)

    run(outage())
