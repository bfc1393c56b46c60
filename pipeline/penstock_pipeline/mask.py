"""Secrets in output: each becomes `[secret]`, as it is or in one of its common disguises.

Disguises: base64 (both alphabets, whatever stands before and after, padded or not, wrapped at 64 or 76
columns), hex, URL-encoded, escaped for JSON, Python, shells, HTML and XML. A secret of several lines also
goes line by line, and what is not shown, such as colours, hides none that it stands in. It is a net against
accidents: a program that means to give a secret away can.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain, takewhile
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

MARK = b"[secret]"

MINIMUM = 4
"""Characters, outer whitespace left out, that a secret must have to be masked. With fewer, words and numbers
of every log would turn into marks, and the marks would tell the secret. GitLab asks for 8 (its documentation
of masked variables)."""
LINE_MINIMUM = 8
"""Characters a line must have to be masked on its own: `}` and `{` are lines of many a secret."""

_WRAPPED_AT = (64, 76)
"""Columns of base64 as openssl and coreutils print it (RFC 7468, RFC 2045)."""
_KEPT_IN_URLS = ("", "/", "!'()*", ";,/?:@&=+$!*'()#")
"""What encoders leave as it is: form encoders, Python's `quote`, encodeURIComponent, encodeURI."""

SEEN_THROUGH = 4096
"""Bytes that are not shown and hold back what stands before them: it may be the beginning of a secret."""

_UNSEEN = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[@-Z\\-_])"
    rb"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2(?:\x80[\xa8-\xae]|\x81[\xa6-\xa9])"
)
"""What `tell.clean` takes out of a line in UTF-8: without it, what stood around is one text."""
_MAYBE_UNSEEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\xc2\xe2]")
"""What each of these begins with: most output holds none of it, and this is quick to tell."""
_CUT_OFF = re.compile(rb"(?:\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b\n]*\x1b?)?|\xc2|\xe2[\x80\x81]?)\Z")
"""The beginning of one of these at the end of a piece."""

Data: TypeAlias = bytes


class Mask:
    """Hides a set of secrets; knows them in the clear, so it lives no longer than the run it is made for."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        forms |= {shown for form in forms if len(shown := _UNSEEN.sub(b"", form)) >= MINIMUM}
        self._finder = _Finder(forms) if forms else None

    def bytes(self, data: Data) -> Data:
        """The whole text, masked."""
        stream = self.stream()
        return stream.feed(data) + stream.rest()

    def text(self, text: str) -> str:
        """The whole text, masked."""
        return self.bytes(_raw(text)).decode(errors="surrogateescape") if self._finder else text

    def stream(self) -> MaskStream:
        """For text that comes in pieces."""
        return MaskStream(self._finder)


class MaskStream:
    """Masks text that comes in pieces, wherever it is cut. Only an end that may be the beginning of a secret
    is held back; all else is given at once."""

    def __init__(self, finder: _Finder | None) -> None:
        self._finder = finder
        self._held = b""
        self._hidden = 0
        """How many of the bytes held belong to a mark that was given already."""

    def feed(self, data: Data) -> Data:
        """What can be shown by now."""
        if self._finder is None:
            return data
        held = self._held + data
        seen = _seen(held)
        return self._show(self._finder.spans(held, seen), held, self._finder.sure(held, seen))

    def rest(self) -> Data:
        """What was held back, once nothing follows."""
        if self._finder is None:
            return b""
        return self._show(self._finder.spans(self._held, _seen(self._held)), self._held, len(self._held))

    def _show(self, spans: Iterator[tuple[int, int]], held: Data, sure: int) -> Data:
        shown, at = [], self._hidden
        for start, end in takewhile(lambda span: span[0] < sure, spans):
            if start >= at:
                shown += [held[at:start], MARK]
            at = max(at, end)
        shown.append(held[at:sure])
        self._held, self._hidden = held[sure:], max(at - sure, 0)
        return b"".join(shown)


NOTHING = Mask(())


class _Finder:
    """Finds forms of secrets, the longest at each place. Output without secrets is only sampled: every form
    holds one of `_samples` at a place divisible by `_stride`."""

    def __init__(self, forms: set[Data]) -> None:
        self._forms = sorted(forms)
        self._longest = max(map(len, forms))
        self._heads = frozenset(form[:size] for form in forms for size in range(1, MINIMUM + 1))
        self._stride = min(map(len, forms)) - MINIMUM + 1
        self._samples = frozenset(form[at : at + MINIMUM] for form in forms for at in range(self._stride))
        self._pattern = re.compile(_by_first_byte(forms))

    def spans(self, data: Data, seen: _Seen | None) -> Iterator[tuple[int, int]]:
        """Where forms begin, in order, and end; they may overlap."""
        return self._spans(data) if seen is None else merge(self._spans(data), self._through(seen))

    def _through(self, seen: _Seen) -> Iterator[tuple[int, int]]:
        for start, end in self._spans(seen.data):
            yield seen.places[start], seen.places[end - 1] + 1

    def _spans(self, data: Data) -> Iterator[tuple[int, int]]:
        at = 0 if self._sampled(data) else len(data)
        while found := self._pattern.search(data, at):
            yield found.span()
            at = found.start() + 1

    def sure(self, data: Data, seen: _Seen | None) -> int:
        """From here on, what follows decides: the end of `data` may be the beginning of a form."""
        sure = self._sure(data)
        if seen is None or (through := self._sure(seen.data)) == len(seen.data):
            return sure
        return min(sure, max(seen.places[through], len(data) - self._longest - SEEN_THROUGH))

    def _sure(self, data: Data) -> int:
        for at in range(max(len(data) - self._longest + 1, 0), len(data)):
            if data[at : at + MINIMUM] in self._heads and self._begins_one(data[at:]):
                return at
        return len(data)

    def _begins_one(self, end: Data) -> bool:
        after = bisect_right(self._forms, end)
        return after < len(self._forms) and self._forms[after].startswith(end)

    def _sampled(self, data: Data) -> bool:
        places = range(0, len(data) - MINIMUM + 1, self._stride)
        return not self._samples.isdisjoint([data[at : at + MINIMUM] for at in places])


class _Seen(NamedTuple):
    """Of some output, what is shown, and where each byte of that stands."""

    data: Data
    places: list[int]


def _seen(data: Data) -> _Seen | None:
    """None where all of it is. An end that is cut off is not told yet: what follows may make it unseen."""
    if not _MAYBE_UNSEEN.search(data):
        return None
    cut = _CUT_OFF.search(data, max(len(data) - SEEN_THROUGH, 0))
    end = len(data) if cut is None else cut.start()
    unseen = [found.span() for found in _UNSEEN.finditer(data, 0, end)]
    if cut is None and not unseen:
        return None
    begins, ends = [0, *(end for _, end in unseen)], [*(start for start, _ in unseen), end]
    shown = [range(*span) for span in zip(begins, ends, strict=True)]
    return _Seen(b"".join(data[part.start : part.stop] for part in shown), list(chain(*shown)))


def _by_first_byte(forms: set[Data]) -> Data:
    """A pattern that tries, at each place, only forms with the right first byte."""
    groups = defaultdict(list)
    for form in sorted(forms, key=len, reverse=True):
        groups[form[:1]].append(re.escape(form[1:]))
    return b"|".join(re.escape(first) + b"(?:" + b"|".join(rests) + b")" for first, rests in groups.items())


# -- the forms of a secret


def _forms(secret: str) -> Iterator[Data]:
    whole = secret.strip()
    if len(whole) < MINIMUM:
        return
    unix = whole.replace("\r\n", "\n")
    for text in {whole, unix, unix.replace("\n", "\r\n")}:
        yield from map(_raw, _written(text))
        yield from _encoded(_raw(text))
    for line in map(str.strip, unix.split("\n")):
        if len(line) >= LINE_MINIMUM:
            yield from map(_raw, _written(line))


def _written(text: str) -> Iterator[str]:
    """The text as programs write it for others to read."""
    yield text
    yield from _in_urls(_raw(text))
    yield from _in_strings(text)
    yield from _in_shells(text)
    yield from _in_markup(text)


def _in_urls(raw: Data) -> Iterator[str]:
    for kept in _KEPT_IN_URLS:
        url = quote(raw, safe=kept)
        for form in (url, url.replace("%20", "+")):
            yield form
            yield re.sub("%..", lambda code: code[0].lower(), form)


def _in_strings(text: str) -> Iterator[str]:
    for escaped in (json.dumps(text), json.dumps(text, ensure_ascii=False), repr(text), ascii(text)):
        inner = escaped[1:-1]
        yield inner
        yield inner.replace("/", r"\/")
        yield inner.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _in_shells(text: str) -> Iterator[str]:
    quoted = shlex.quote(text)
    yield quoted[1:-1] if quoted != text else text
    yield text.replace("'", r"'\''")
    yield re.sub(r'(["$`\\])', r"\\\1", text)
    yield re.sub(r"([^\w@%+=:,./-])", r"\\\1", text)


def _in_markup(text: str) -> Iterator[str]:
    yield html.escape(text, quote=False)
    for double in ("&quot;", "&#34;"):
        for single in ("&#x27;", "&#39;", "&apos;"):
            yield html.escape(text, quote=False).replace('"', double).replace("'", single)


def _encoded(raw: Data) -> Iterator[Data]:
    yield from (raw.hex().encode(), raw.hex().upper().encode())
    for form in _in_base64(raw):
        yield form
        yield form.translate(_URL_SAFE)


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _in_base64(raw: Data) -> Iterator[Data]:
    padded = base64.b64encode(raw)
    yield from (padded, padded.rstrip(b"="))
    yield from (_stable(raw, before) for before in range(3))
    for columns in _WRAPPED_AT:
        whole = _stable(raw, 0)
        lines = (whole[at : at + columns] for at in range(0, len(whole), columns))
        yield from (line for line in lines if len(line) >= LINE_MINIMUM)


def _stable(raw: Data, before: int) -> Data:
    """The characters that are the same whatever stands around, `before` bytes in front: those of the secret's
    bits alone, 6 bits each (RFC 4648)."""
    return base64.b64encode(bytes(before) + raw)[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]


def _raw(text: str) -> Data:
    """As programs print it: what was no UTF-8 where it came from is what it was."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")
