"""A Penstock with a live app that is attacked: at the wire by hand, and through packs no git makes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from plugins.penstock import WITHIN, Answer, Penstock, Pushed, Repository, static
from plugins.senders import SECRET

SIZE_LIMIT = 20_000_000
"""Bytes that this Penstock takes of a push, and lays out of a commit."""

NOWHERE = "0" * 40
_KINDS = {"commit": 1, "tree": 2, "blob": 3}


@dataclass(frozen=True)
class Object:
    """An object of git's, valid or not. `size` is what a pack says of it."""

    kind: str
    data: bytes
    size: int | None = None

    @property
    def id(self) -> str:
        return hashlib.sha1(f"{self.kind} {len(self.data)}\0".encode() + self.data).hexdigest()

    def packed(self) -> bytes:
        """As gitformat-pack(5) has it: type and size in groups of 4 and 7 bits, then the data, deflated."""
        size = len(self.data) if self.size is None else self.size
        first, size = _KINDS[self.kind] << 4 | size & 15, size >> 4
        head = [first]
        while size:
            head[-1] |= 128
            head.append(size & 127)
            size >>= 7
        return bytes(head) + zlib.compress(self.data)


Entry = tuple[str, bytes, Object]
"""Mode, name and object."""


def blob(data: bytes) -> Object:
    return Object("blob", data)


def tree(*entries: Entry) -> Object:
    lines = (mode.encode() + b" " + name + b"\0" + bytes.fromhex(one.id) for mode, name, one in entries)
    return Object("tree", b"".join(lines))


def packet(line: bytes) -> bytes:
    """A pkt-line (gitprotocol-common(5))."""
    return b"%04x" % (len(line) + 4) + line


def pack(*objects: Object) -> bytes:
    data = b"PACK" + struct.pack(">II", 2, len(objects)) + b"".join(one.packed() for one in objects)
    return data + hashlib.sha1(data).digest()


class Attacked:
    """The Penstock and its victim: `shop`, live with one page, which also takes webhooks as `hooked`."""

    def __init__(self, penstock: Penstock) -> None:
        self.penstock = penstock
        self.canary = penstock.folder / "canary"
        self.upstream = Repository(penstock.folder / "upstream")
        self.commit = self.upstream.commit(static("hooked"))
        self.repository = penstock.add("shop")
        self.tip = self.repository.commit(static("safe"))
        assert self.repository.push().code == 0
        hooked = {"name": "hooked", "repository": str(self.upstream.folder), "webhook_secret": SECRET}
        penstock.api("/apps", hooked)
        self._remote = urlsplit(self.repository.git("remote", "get-url", "penstock").stdout.strip())
        self._pid = self._engine()
        self._heard = 0

    def _engine(self) -> int:
        pid: int = self.penstock.client["pid"]
        return pid

    def check(self) -> None:
        """It is as it was: the same engine, the same release, nothing run, no fault in its log."""
        assert self._engine() == self._pid
        assert self.penstock.process is not None
        assert self.penstock.process.poll() is None
        assert self.served() == b"<h1>safe</h1>\n"
        assert self.penstock.api("/apps/shop")["live"]["label"] == "v1"
        assert not self.canary.exists(), "what an attack brought along was run"
        log = self.penstock.log()
        news, self._heard = log[self._heard :], len(log)
        assert "Traceback" not in news, news

    @property
    def own(self) -> tuple[Path, Path]:
        """Penstock's repositories of both apps."""
        kept = self.penstock.state / "repositories"
        return kept / "shop.git", kept / "hooked.git"

    @property
    def remote(self) -> str:
        """Where `shop` is pushed to, token and all."""
        return self._remote.geturl()

    def served(self) -> bytes:
        return self.penstock.ask(self.penstock.urls("shop")["app"]).body

    def runs(self, app: str) -> int:
        return len(self.penstock.api(f"/runs?app={app}&limit=500"))

    # -- at the wire

    @property
    def basic(self) -> str:
        secret = f"ann:{self._remote.password}".encode()
        return f"Authorization: Basic {base64.b64encode(secret).decode()}"

    def send(self, request: bytes) -> Answer:
        """What is answered to these bytes, or to as many of them as are taken."""
        with socket.create_connection(("127.0.0.1", self._remote.port or 0), timeout=WITHIN) as connection:
            answered = b""
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
            with contextlib.suppress(ConnectionError):
                while piece := connection.recv(65536):
                    answered += piece
        return _read(answered)

    def ask(self, line: str, *headers: str, body: bytes = b"") -> Answer:
        """One request as it is written here, with its length where none is given."""
        given = ["Host: localhost", "Connection: close", *headers]
        if body and not any(header.startswith(("Content-Length", "Transfer-Encoding")) for header in headers):
            given.append(f"Content-Length: {len(body)}")
        head = "".join(f"{text}\r\n" for text in (f"{line} HTTP/1.1", *given)) + "\r\n"
        return self.send(head.encode("utf-8", "surrogateescape") + body)

    def receive_pack(self, body: bytes, *headers: str) -> Answer:
        content = "Content-Type: application/x-git-receive-pack-request"
        return self.ask("POST /git/shop/git-receive-pack", self.basic, content, *headers, body=body)

    # -- by packs

    def on_top(self, files: Object) -> Object:
        """A commit of this tree, on top of what is live."""
        who = "A <a@example.com> 1 +0000"
        text = f"tree {files.id}\nparent {self.tip}\nauthor {who}\ncommitter {who}\n\nodd\n"
        return Object("commit", text.encode())

    def push_tree(self, *entries: Entry, also: tuple[Object, ...] = ()) -> Pushed:
        """Pushes a commit with these entries at its top, and a page."""
        page = blob(b"<h1>evil</h1>\n")
        top = tree(*entries, ("100644", b"index.html", page))
        mine = [one for mode, _, one in entries if mode != "160000"]
        return self.push_pack(*also, *mine, page, top, self.on_top(top))

    def push_files(self, files: Mapping[str, bytes | str]) -> Pushed:
        """Pushes a commit with these files at its top, whatever their names."""
        named = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
        return self.push_tree(*(("100644", name.encode(), blob(text)) for name, text in named.items()))

    def push_pack(self, *objects: Object, ref: bytes = b"refs/heads/main") -> Pushed:
        """Pushes the last of these objects, by hand."""
        old = NOWHERE if ref != b"refs/heads/main" else self.tip
        command = f"{old} {objects[-1].id} ".encode() + ref + b"\0 report-status side-band-64k"
        answer = self.receive_pack(packet(command) + b"0000" + pack(*objects))
        said = b"".join(_packets(answer.body)).decode(errors="replace")
        return Pushed(0 if f"ok {ref.decode(errors='replace')}\n" in said else 1, said)


def _read(answered: bytes) -> Answer:
    head, _, body = answered.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(_chunks(body))
    return Answer(int(first.split()[1]) if first else 0, headers, body)


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        yield body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]


def _packets(body: bytes) -> Iterator[bytes]:
    """What the side bands carry (gitprotocol-pack(5)), without the number of the band."""
    while re.match(rb"[0-9a-f]{4}", body):
        size = max(4, int(body[:4], 16))
        yield body[5:size]
        body = body[size:]


@pytest.fixture(scope="session")
def _attacked() -> Iterator[Attacked]:
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    try:
        with Penstock(folder, REPOSITORY_LIMIT=SIZE_LIMIT) as running:
            yield Attacked(running)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def attacked(_attacked: Attacked) -> Iterator[Attacked]:
    """The Penstock that all attacks share, which each of them leaves as it was."""
    yield _attacked
    _attacked.check()


def says(answer: Answer, status: HTTPStatus | int, *words: str) -> None:
    """The answer is this refusal, in these words."""
    text = answer.body.decode()
    assert answer.status == status, (answer.status, text)
    for one in words:
        assert one in text
