"""The process: uvicorn on uvloop, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from penstock_data.app import DataApp
from penstock_data.errors import InvalidSettings
from penstock_data.settings import Settings, Source

log = logging.getLogger("penstock_data")

HEAD = 20.0
"""Seconds that the head of a request may take to come."""

HEAD_LIMIT = 64 * 1024
"""Bytes that it may have."""

KEPT = 75
"""Seconds for which a connection without a request is kept."""


class Connection(HttpToolsProtocol):
    """Closed when the head of a request does not come in time, or goes on and on."""

    _heard = 0
    """Bytes of a head that has not ended."""
    _late: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        self._heard = 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._heard = 0
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._heard:
            self._heard += len(data)
            if self._heard > HEAD_LIMIT:
                self.transport.close()
            elif self._late is None:
                self._late = self.loop.call_later(HEAD, self.transport.close)
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """Signals are the business of `_serve`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(settings: Settings, source: Source | None = None) -> None:
    """Until SIGTERM or SIGINT. Raises `InvalidSettings`."""
    app = DataApp(settings, source)
    config = _config(app)
    listener = _listener(settings)
    _log(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(app, _Server(config), listener))


async def _serve(app: DataApp, server: uvicorn.Server, listener: socket.socket) -> None:
    ending: list[asyncio.Task[None]] = []

    async def end() -> None:
        await app.drain()
        server.should_exit = True

    def told() -> None:
        if ending:  # a second time: at once
            server.force_exit = server.should_exit = True
        ending.append(asyncio.get_running_loop().create_task(end(), name="penstock-data-drain"))

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)
    host, port = listener.getsockname()[:2]
    scheme = "https" if app.settings.tls_cert else "http"
    log.info("pool %s is served at %s://%s:%d", app.settings.name, scheme, host, port)
    await server.serve([listener])
    if not server.started:
        raise InvalidSettings("the service could not be started: the log says why")


def _listener(settings: Settings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
        return socket.create_server((settings.address, settings.port), family=family, backlog=2048)
    except OSError as error:
        where = f"port {settings.port} on {settings.address}"
        raise InvalidSettings(f"{where} cannot be opened: {error.strerror}") from error


def _config(app: DataApp) -> uvicorn.Config:
    settings = app.settings
    try:
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEPT,
            timeout_graceful_shutdown=max(1, int(settings.drain)),
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        config.load()
    except OSError as error:  # of which ssl.SSLError is one
        raise InvalidSettings(f"tls_cert {settings.tls_cert}, tls_key {settings.tls_key}: {error}") from error
    return config


def _log(settings: Settings) -> None:
    handler = logging.StreamHandler(sys.stderr)
    if settings.log == "json":
        from pythonjsonlogger.json import JsonFormatter

        fields = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(
            JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=fields)
        )
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
