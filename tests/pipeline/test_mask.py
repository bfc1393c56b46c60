"""No secret is seen in output, in whatever disguise and however it is cut."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_pipeline import tell
from penstock_pipeline.mask import MARK, MINIMUM, NOTHING, SEEN_THROUGH, Mask

SECRET = """pä s"s'w<o>r&d/$1+\\?"""
PEM = "-----BEGIN PRIVATE KEY-----\n" + "\n".join("MIIEvQIBADANBgkq" * 4 + str(n) for n in range(5))
PEM += "\n-----END PRIVATE KEY-----\n"

# Few letters, so that secrets overlap, contain each other and are cut at every place.
texts = st.text("ab'\n é%=", max_size=12)
secret_sets = st.lists(texts, max_size=4)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def streamed(mask: Mask, pieces: list[bytes]) -> bytes:
    stream = mask.stream()
    return b"".join(stream.feed(piece) for piece in pieces) + stream.rest()


@settings(deadline=None)
@given(secret_sets, st.lists(texts), st.data(), st.lists(st.integers(min_value=0), max_size=20))
def test_the_same_is_masked_wherever_the_text_is_cut(
    secrets: list[str], around: list[str], draw: st.DataObject, places: list[int]
) -> None:
    mask, parts = Mask(secrets), around + secrets
    text = "".join(draw.draw(st.permutations(parts))).encode()
    assert streamed(mask, cut(text, places)) == mask.bytes(text)


@settings(deadline=None)
@given(secret_sets, st.lists(texts), st.data())
def test_no_secret_is_left_and_nothing_else_is_changed(
    secrets: list[str], around: list[str], draw: st.DataObject
) -> None:
    text = "".join(draw.draw(st.permutations(around + secrets)))
    seen = Mask(secrets).text(text).split(MARK.decode())
    for secret in secrets:
        if len(secret.strip()) >= MINIMUM:
            assert not any(secret.strip() in part for part in seen)
    assert re.fullmatch(".+?".join(map(re.escape, seen)), text, re.DOTALL)


@settings(deadline=None)
@given(st.binary(max_size=5), st.text(min_size=MINIMUM, max_size=40), st.binary(max_size=5))
def test_base64_is_masked_whatever_stands_around(before: bytes, secret: str, after: bytes) -> None:
    if len(secret.strip()) < MINIMUM:
        return
    raw = before + secret.strip().encode() + after
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        seen = Mask([secret]).bytes(encode(raw))
        assert MARK in seen
        left = sum(map(len, seen.split(MARK)))
        assert left <= (len(before) + len(after)) * 8 / 6 + 2 * 4


DISGUISES = {
    "plain": SECRET,
    "json": json.dumps(SECRET)[1:-1],
    "json in its own letters": json.dumps(SECRET, ensure_ascii=False)[1:-1],
    "json safe in a page": json.dumps(SECRET)[1:-1]
    .replace("<", "\\u003c")
    .replace(">", "\\u003e")
    .replace("&", "\\u0026"),
    "json of php": json.dumps(SECRET)[1:-1].replace("/", "\\/"),
    "quote": quote(SECRET),
    "quote of everything": quote(SECRET, safe=""),
    "form": quote_plus(SECRET),
    "lower case escapes": re.sub("%..", lambda code: code[0].lower(), quote(SECRET, safe="")),
    "encodeURIComponent": quote(SECRET, safe="!'()*"),
    "encodeURI": quote(SECRET, safe=";,/?:@&=+$!*'()#"),
    "repr": repr(SECRET)[1:-1],
    "ascii": ascii(SECRET)[1:-1],
    "shlex": shlex.quote(SECRET),
    "set -x": "'" + SECRET.replace("'", "'\\''") + "'",
    "html": html.escape(SECRET),
    "html of others": html.escape(SECRET).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
    "xml": html.escape(SECRET).replace("&#x27;", "&apos;"),
    "text of xml": html.escape(SECRET, quote=False),
    "hex": SECRET.encode().hex(),
    "HEX": SECRET.encode().hex().upper(),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "url-safe": base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
}


@pytest.mark.parametrize("disguise", DISGUISES.values(), ids=DISGUISES)
def test_a_disguised_secret_is_masked_whole(disguise: str) -> None:
    seen = Mask([SECRET]).text(f"before {disguise} after")
    assert seen.replace("'", "") == "before [secret] after"


def test_a_key_of_several_lines_is_masked_as_a_whole_and_line_by_line() -> None:
    mask = Mask([PEM])
    assert mask.text(f"key: {PEM}.") == "key: [secret]\n."
    assert mask.text(PEM.replace("\n", "\r\n")) == "[secret]\r\n"
    assert mask.text(json.dumps({"key": PEM})) == '{"key": "[secret]\\n"}'
    for line in PEM.splitlines():
        assert mask.text(f"  remote: {line}\r\n") == "  remote: [secret]\r\n"


@pytest.mark.parametrize("columns", [64, 76])
@pytest.mark.parametrize("end", ["", "\n"])
def test_base64_in_lines_is_masked(columns: int, end: str) -> None:
    secret = PEM.strip()
    whole = base64.b64encode((secret + end).encode()).decode()
    lines = [whole[at : at + columns] for at in range(0, len(whole), columns)]
    seen = Mask([secret]).text("\n".join(lines))
    assert all(len(line.replace("[secret]", "")) <= 4 for line in seen.splitlines())


def test_whitespace_around_a_secret_is_not_part_of_it() -> None:
    assert Mask([" hunter22\n"]).text("<hunter22>") == "<[secret]>"


def test_of_secrets_within_others_the_longest_is_masked_and_overlaps_leave_nothing() -> None:
    mask = Mask(["hunter", "hunter22", "my-hunter22-key", "key-chain"])
    assert mask.text("my-hunter22-key hunter22 hunter") == "[secret] [secret] [secret]"
    assert mask.text("my-hunter22-key-chain") == "[secret]"


def test_what_is_too_short_is_not_masked() -> None:
    assert Mask(["abc", "", "  abc\n "]).text("abc abcabc") == "abc abcabc"
    assert Mask(["abcd"]).text("abcd") == "[secret]"


def test_bytes_that_are_no_text_are_masked_and_passed_on() -> None:
    mask = Mask(["pass\udcffword"])
    assert mask.bytes(b"\xfe pass\xffword \x00") == b"\xfe [secret] \x00"
    assert mask.text("\udcfe pass\udcffword") == "\udcfe [secret]"
    assert Mask(["\ud800abcd"]).text("x\ud800abcd") == "x[secret]"


def test_only_what_may_become_a_secret_is_held_back() -> None:
    stream = Mask(["hunter22"]).stream()
    assert stream.feed(b"Password: ") == b"Password: "
    assert stream.feed(b"the hunt") == b"the "
    assert stream.feed(b"ing") == b"hunting"
    assert stream.feed(b"\nhunter2") == b"\n"
    assert stream.feed(b"2") == MARK
    assert stream.feed(b"hunter") == b""
    assert stream.rest() == b"hunter"
    assert stream.rest() == b""


def test_an_endless_secret_is_one_mark_and_held_back_no_further_than_its_length() -> None:
    stream = Mask(["aaaa"]).stream()
    assert stream.feed(b"a" * 5000) == MARK
    assert stream.feed(b"a" * 5000) == b""
    assert stream.feed(b"b") == b"b"


def test_without_secrets_everything_passes() -> None:
    assert (NOTHING.bytes(b"abc"), NOTHING.text("\ud800"), NOTHING.stream().feed(b"abc")) == (
        b"abc",
        "\ud800",
        b"abc",
    )
    assert NOTHING.stream().rest() == b""


def test_many_secrets_that_begin_alike_are_masked() -> None:
    secrets = ["x" * size for size in range(MINIMUM, 300)]
    assert Mask(secrets).text("-" + "x" * 200 + "-") == "-[secret]-"


# -- what a terminal does not show

UNSEEN = [
    "\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;x\x1b\\",
    "\x1bM",
    "\0",
    "\x08",
    "\x9b",
    "\u202e",
    "\u2029",
    "\u2069",
]


@pytest.mark.parametrize("unseen", UNSEEN)
def test_a_secret_is_masked_whatever_stands_in_it_that_is_not_shown(unseen: str) -> None:
    mask, text = Mask(["supersecret"]), f"a super{unseen}sec{unseen * 2}ret b"
    assert mask.text(text) == "a [secret] b"
    pieces = [bytes([one]) for one in text.encode()]
    assert streamed(mask, pieces) == b"a [secret] b"
    assert mask.text(f"{unseen}super {unseen}") == f"{unseen}super {unseen}"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["super", "secret", "s", " ", "\n", "\r", "\x1b", "[", "]", "m", *UNSEEN])),
    st.lists(st.integers(min_value=0), max_size=20),
)
def test_no_secret_is_put_together_by_what_makes_output_harmless(parts: list[str], places: list[int]) -> None:
    seen = streamed(Mask(["supersecret"]), cut("".join(parts).encode(), places)).decode()
    assert not any("supersecret" in tell.clean(line) for line in seen.split("\n"))


def test_a_secret_that_holds_what_is_not_shown_is_masked_as_it_is_shown() -> None:
    mask = Mask(["super\x07secret"])
    assert mask.text("super\x07secret supersecret") == "[secret] [secret]"


def test_what_is_not_shown_is_held_back_to_a_bound() -> None:
    stream = Mask(["supersecret"]).stream()
    assert stream.feed(b"super" + b"\0" * 100) == b""
    given = stream.feed(b"\0" * 10 * SEEN_THROUGH)
    assert given.startswith(b"super")
    assert len(stream.rest()) < 2 * SEEN_THROUGH
