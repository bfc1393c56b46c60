"""Talking to a running Penstock over its API, with the standard library alone: commands start fast."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from ..errors import Conflict, Forbidden, Invalid, NotFound, PenstockError, Unavailable

PATIENCE = 60.0
"""Seconds an answer may take; a cancel or a rollback waits until what moves has ended."""

_ERRORS: Mapping[int, type[PenstockError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
}
"""All others below 500 mean `Invalid`, all from there on `Unavailable`."""


def state_folder(state: Path | None) -> Path:
    """The state folder that is meant: the one given, else PENSTOCK_STATE, else the default of `Settings`
    (which is not imported here: it costs more time than the whole command)."""
    if state is None and (named := os.environ.get("PENSTOCK_STATE")):
        state = Path(named)
    if state is None:
        state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "penstock"
    return state.expanduser().resolve()


class Client:
    """Calls the API of one Penstock. Every method raises the error the API answers with, and `Unavailable`
    where nobody answers."""

    def __init__(self, url: str, token: str, *, patience: float = PATIENCE) -> None:
        parts = _address(url)
        if not token.isascii() or not token.isprintable():
            raise Forbidden("what is given as a token is none; make one: penstock token --manage")
        self.url = url.rstrip("/")
        self._base = parts.path.rstrip("/")
        self._token = token
        self._patience = patience
        self._host = parts.netloc.rpartition("@")[2]
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    @classmethod
    def find(cls, state: Path | None, *, patience: float = PATIENCE) -> Client:
        """The Penstock over the given folder, else the one PENSTOCK_URL names, else the one over the usual
        folder."""
        if state is None and (url := os.environ.get("PENSTOCK_URL")):
            if token := os.environ.get("PENSTOCK_TOKEN"):
                return cls(url, token, patience=patience)
            raise Forbidden(f"PENSTOCK_TOKEN is missing for {url}\nmake one there: penstock token --manage")
        folder = state_folder(state)
        try:
            known = json.loads((folder / "client.json").read_bytes())
            return cls(known["url"], known["token"], patience=patience)
        except FileNotFoundError:
            raise Unavailable(f"no Penstock runs over {folder}\n{_START}") from None
        except PermissionError:
            raise Forbidden(
                f"{folder} belongs to someone else; set PENSTOCK_URL and PENSTOCK_TOKEN"
            ) from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise Unavailable(f"{folder / 'client.json'} cannot be read: {error}\n{_START}") from error

    def get(self, path: str, **query: object) -> Any:
        with self._answer("GET", path, query) as answer:
            return json.load(answer)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        with self._answer("POST", path, {}, body) as answer:
            return json.load(answer)

    def lines(self, path: str, **query: object) -> Iterator[bytes]:
        """The lines of an answer as they come, each with its end, for as long as they come."""
        with self._answer("GET", path, query, lasting=True) as answer:
            yield from answer

    @contextmanager
    def _answer(
        self,
        method: str,
        path: str,
        query: Mapping[str, object],
        body: Mapping[str, object] | None = None,
        *,
        lasting: bool = False,
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, while it is read. `lasting`: its pieces may take as long as they like."""
        given = {name: value for name, value in query.items() if value is not None}
        asked = urlencode(given, errors="replace")
        target = f"{self._base}/api{quote(path, errors='replace')}?{asked}".rstrip("?")
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body)
        try:
            with closing(self._kind(self._host, timeout=self._patience)) as connection:
                connection.request(method, target, data, headers)
                connection.sock.settimeout(None if lasting else self._patience)
                with connection.getresponse() as answer:
                    if answer.getheader("Penstock-Version") is None:
                        raise Unavailable(f"what answers at {self.url} is no Penstock{_WHICH}")
                    if answer.status >= 400:
                        raise _error(answer.status, answer.read())
                    yield answer
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise self._silent(error) from error

    def _silent(self, error: Exception) -> Unavailable:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Unavailable(f"Penstock at {self.url} does not answer: {why}\n{_START}")


def _address(url: str) -> SplitResult:
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname:
            return parts
    raise Invalid(f"{url!r} is not an address of a Penstock; it looks like http://127.0.0.1:7070")


_WHICH = ", or one from before an upgrade\nstop that and start it anew; or is PENSTOCK_URL wrong?"
_START = "start it: penstock up; or name its folder: --state DIR"


def _error(status: int, body: bytes) -> PenstockError:
    try:
        detail = str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"Penstock answered {status} {http.client.responses.get(status, '')}".rstrip()
    return _ERRORS.get(status, Invalid if status < 500 else Unavailable)(detail)
