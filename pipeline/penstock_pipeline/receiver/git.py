"""The git door: smart HTTP, bridged to `git http-backend` as a subprocess, streaming both ways.

A plain ASGI application with one reader of `receive`: a framework's streaming response would listen for the
client's disconnect on the same channel and swallow pieces of the upload.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import re
import signal
from http import HTTPStatus

from starlette.types import Receive, Scope, Send

from ..errors import Forbidden, MachineUnavailable, NotFound, PenstockError, Unavailable
from ..model import App
from ..repositories import Repositories
from ..store import SqliteStore, registry
from ..tokens import Identity, Tokens

_PATH = re.compile(
    r"/git/(?P<app>[a-z0-9-]{1,40})(\.git)?(?P<rest>/(info/refs|git-upload-pack|git-receive-pack))"
)
_HEAD_LIMIT = 65536
_PIECE = 65536


class GitDoor:
    """`/git/<app>`: fetch and push with a token as the password."""

    def __init__(self, store: SqliteStore, repositories: Repositories, tokens: Tokens, *, most: int) -> None:
        """`most`: requests that git answers at once; the others wait for their turn."""
        self._store = store
        self._repositories = repositories
        self._tokens = tokens
        self._turn = asyncio.Semaphore(most)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            identity, app, rest = await self._admit(scope)
            async with self._turn:
                process = await _http_backend(self._environment(scope, identity, app, rest))
                await _Exchange(process, receive, send).run()
        except Forbidden as error:
            await _refuse(
                send, 401, str(error), ((b"www-authenticate", b'Basic realm="penstock", charset="UTF-8"'),)
            )
        except PenstockError as error:
            await _refuse(send, 503 if isinstance(error, Unavailable) else 404, str(error))

    async def _admit(self, scope: Scope) -> tuple[Identity, App, str]:
        if (match := _PATH.fullmatch(scope["path"])) is None:
            raise NotFound("a git remote of Penstock looks like /git/APP")
        identity = self._tokens.verify(_password(scope["headers"]))
        if not identity.may_push(name := match["app"]):  # asked first: which apps there are is not for all
            raise Forbidden(f"this token is not for {name}; make one: penstock token --app {name}")
        return identity, await self._store.read(registry.get, name), match["rest"]

    def _environment(self, scope: Scope, identity: Identity, app: App, rest: str) -> dict[str, str]:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        environment = {
            **self._repositories.environment,
            "GIT_PROJECT_ROOT": str(self._repositories.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{app.name}.git{rest}",
            "QUERY_STRING": scope["query_string"].decode("latin-1"),
            "REQUEST_METHOD": scope["method"],
            "REMOTE_USER": identity.name,
            "REMOTE_ADDR": (scope.get("client") or ("",))[0],
            "PENSTOCK_PUSHER": identity.name,
            "PENSTOCK_APP": app.name,
        }
        # Without its length a body ends where the pipe ends. With it, http-backend copies the body itself and
        # spins for ever when the pipe ends early, as it does when this process is killed.
        named = {
            b"content-type": "CONTENT_TYPE",
            b"content-encoding": "HTTP_CONTENT_ENCODING",
            b"git-protocol": "GIT_PROTOCOL",
        }
        return environment | {cgi: headers[name] for name, cgi in named.items() if name in headers}


def _password(headers: list[tuple[bytes, bytes]]) -> str:
    given = next((value for name, value in headers if name == b"authorization"), b"")
    scheme, _, encoded = given.partition(b" ")
    if scheme.lower() != b"basic":
        raise Forbidden("a token is needed as the password: penstock token --app APP")
    try:
        _, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise Forbidden("the Authorization header cannot be read") from error
    return password


async def _refuse(send: Send, status: int, text: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    body = f"{text}\n".encode()
    content = ((b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": [*content, *headers]})
    await send({"type": "http.response.body", "body": body})


async def _http_backend(environment: dict[str, str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            "git",
            "http-backend",
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise MachineUnavailable(error) from error


class _Exchange:
    """One request and git's answer to it."""

    def __init__(self, process: asyncio.subprocess.Process, receive: Receive, send: Send) -> None:
        self._process = process
        self._receive = receive
        self._send = send

    async def run(self) -> None:
        process = self._process
        upload = asyncio.create_task(self._upload(process), name="git-upload")
        try:
            await self._answer(process)
        finally:
            if not upload.done():
                _end_group(process)
            upload.cancel()
            await asyncio.wait([upload])
        await process.wait()

    async def _upload(self, process: asyncio.subprocess.Process) -> None:
        """The body goes to git as it comes. A client that leaves before it is whole ends git; one that leaves
        later only stops listening."""
        assert process.stdin is not None
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                _end_group(process)
                return
            more = message.get("more_body", False)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # git has heard enough
                process.stdin.write(message.get("body", b""))
                await process.stdin.drain()
        process.stdin.close()

    async def _answer(self, process: asyncio.subprocess.Process) -> None:
        """No head before git has said something: a proxy in front may stop sending the body once it has seen
        one. Git's output is drained to its end even when nobody listens, so that no hook ever blocks."""
        assert process.stdout is not None
        status, headers, rest = await _head(process.stdout)
        if not rest and (status >= HTTPStatus.BAD_REQUEST or await process.wait()):
            await _refuse(
                self._send, max(status, HTTPStatus.BAD_REQUEST), "git makes no sense of this request"
            )
            return
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        while rest or (rest := await process.stdout.read(_PIECE)):
            await self._send({"type": "http.response.body", "body": rest, "more_body": True})
            rest = b""
        await self._send({"type": "http.response.body", "body": b""})


async def _head(stdout: asyncio.StreamReader) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """The CGI head (RFC 3875, section 6) as status and headers, and the first of what comes after it:
    `http-backend` prints its head at once, before git itself has said anything."""
    data = b""
    while not (b"\r\n\r\n" in data[:-4] or len(data) > _HEAD_LIMIT) and (piece := await stdout.read(_PIECE)):
        data += piece
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return 502, [(b"content-type", b"text/plain")], b"git ended without an answer\n"
    status, headers = 200, [(b"x-accel-buffering", b"no")]
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"status":
            status = int(value.split()[0])
        else:
            headers.append((name.lower(), value.strip()))
    return status, headers, rest


def _end_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
