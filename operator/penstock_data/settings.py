"""Everything that can be set, in one frozen object, read from the environment in one place.

Each field is an option of `penstock-data` (`--max-rows`), a variable (`PENSTOCK_DATA_MAX_ROWS`) or a key of
the YAML file that `--config` names, in this order. A wrong value is refused with its name; nothing is
corrected.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from penstock_data.errors import InvalidSettings

Seconds = float

_PREFIX = "PENSTOCK_DATA_"


class Settings(BaseSettings):
    """Settings of one data service."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    url: str | None = None
    """The database: mysql://user:password@host:port/database."""

    username: str | None = None
    """Name of the account, in place of the URL's."""

    password: str | None = Field(default=None, repr=False)
    """Its password, in place of the URL's."""

    password_file: Path | None = None
    """File with the password, in place of the URL's; read before each connect, so that it can be rotated."""

    ca_file: Path | None = None
    """Authorities (PEM) that the database's certificate is verified with, in place of the system's."""

    replicas: tuple[str, ...] = ()
    """URLs of servers that follow it; `read` requests go there. Their sessions are read-only."""

    address: str = "127.0.0.1"
    """Address to listen on."""

    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0: a free one, which is told."""

    tls_cert: Path | None = None
    """Certificate chain (PEM) to serve HTTPS with."""

    tls_key: Path | None = None
    """Its key."""

    name: str = Field(default="pool", min_length=1)
    """Of the pool: in metrics, logs and errors."""

    min: int = Field(default=10, ge=0)
    """Connections that are kept open, to the database and to each replica."""

    max: int = Field(default=30, ge=1)
    """Connections that are open at most, to the database and to each replica."""

    checkout_timeout: Seconds = Field(default=3.0, ge=0)
    """Seconds that a request waits for a connection."""

    generation: int = Field(default=0, ge=0)
    """Of the object that asks for these sizes; `PUT /v1/pool` with an older one is refused."""

    heartbeat: Seconds = Field(default=5.0, gt=0)
    """Seconds between two pings of an idle connection."""

    slow_query: Seconds | None = Field(default=1.0, gt=0)
    """Seconds after which a statement is logged as slow."""

    statement_cache: int = Field(default=100, ge=1)
    """Prepared statements that each connection keeps."""

    issuer: str = "penstock-data"
    """`iss` of the tokens that are accepted."""

    audience: str | None = None
    """`aud` of the tokens that are accepted; None: penstock-data/<name>."""

    key_file: Path | None = None
    """Key that tokens are signed with (HS256); made if it is not there. None: `penstock-data.key` in the
    state folder, unless `jwks_url` is set."""

    jwks_url: str | None = None
    """Where the public keys are (RS256, ES256), in place of a key file."""

    queries: Path | None = None
    """YAML file of the named queries."""

    only_named: bool = False
    """Whether nothing but named queries is done."""

    timeout: Seconds = Field(default=5.0, gt=0)
    """Seconds of a request that says nothing else."""

    timeout_limit: Seconds = Field(default=30.0, gt=0)
    """Seconds that a request may ask for."""

    max_rows: int = Field(default=10_000, ge=1)
    """Rows of an answer that is not a stream."""

    max_bytes: int = Field(default=8 * 1024**2, ge=1024)
    """Bytes of an answer that is not a stream."""

    max_stream_bytes: int | None = Field(default=None, ge=1024)
    """Bytes of a stream; None: no limit."""

    max_body: int = Field(default=1024**2, ge=1024)
    """Bytes of a request, unpacked."""

    max_params: int = Field(default=10_000, ge=0, le=65535)
    """Parameters of a statement; the protocol has room for 65,535."""

    max_batch: int = Field(default=100, ge=1)
    """Statements of a batch."""

    tenant_concurrency: int = Field(default=10, ge=1)
    """Requests of one tenant that are under way at once."""

    tenant_queue: int = Field(default=100, ge=0)
    """Requests of one tenant that may wait."""

    lease: Seconds = Field(default=10.0, gt=0)
    """Seconds of a transaction that asks for none."""

    lease_limit: Seconds = Field(default=60.0, gt=0)
    """Seconds of a transaction at most, however often it is renewed."""

    max_leases: int = Field(default=10, ge=0)
    """Transactions at once; each holds a connection."""

    tenant_leases: int = Field(default=5, ge=0)
    """Transactions of one tenant at once."""

    pod: str = Field(default_factory=socket.gethostname, pattern=r"^[A-Za-z0-9.-]{1,253}$")
    """This process among those behind the same address: its leases carry it."""

    peer_url: str | None = None
    """How another process is reached, such as http://{pod}.shop-db.prod.svc:8080."""

    drain: Seconds = Field(default=10.0, ge=0)
    """Seconds that requests and leases may take to end after SIGTERM."""

    drain_delay: Seconds = Field(default=0.0, ge=0)
    """Seconds from SIGTERM until new requests are refused: until nobody sends any more (in Kubernetes: until
    the endpoint is removed everywhere)."""

    otlp_endpoint: str | None = None
    """Where traces are sent (OTLP over HTTP)."""

    log: Literal["json", "text"] = "json"
    """Form of the log's lines on standard error."""

    state: Path = Field(default_factory=lambda: Path("~/.local/state/penstock-data").expanduser())
    """Folder of the key that is made when no other was given."""

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, more than max, {self.max}")
        if self.timeout > self.timeout_limit:
            raise ValueError(f"timeout is {self.timeout}, more than timeout_limit, {self.timeout_limit}")
        if self.lease > self.lease_limit:
            raise ValueError(f"lease is {self.lease}, more than lease_limit, {self.lease_limit}")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.password is not None and self.password_file is not None:
            raise ValueError("password and password_file exclude each other")
        if self.key_file is not None and self.jwks_url is not None:
            raise ValueError("key_file and jwks_url exclude each other")
        if self.only_named and self.queries is None:
            raise ValueError("only_named needs queries")
        return self

    @field_validator("peer_url")
    @classmethod
    def _has_a_place(cls, value: str | None) -> str | None:
        if value is not None and (value.count("{pod}") != 1 or not value.startswith(("http://", "https://"))):
            raise ValueError("must be a URL with {pod} in it, such as http://{pod}.shop-db.prod.svc:8080")
        return value

    @property
    def serves(self) -> str:
        """The audience of its tokens."""
        return self.audience or f"penstock-data/{self.name}"

    @property
    def signs_with(self) -> Path:
        """The file of the key that tokens are signed with."""
        return self.key_file or self.state / "penstock-data.key"

    @classmethod
    def load(cls, options: dict[str, Any], file: Path | None = None) -> Settings:
        """By options, then the environment, then the file, which `PENSTOCK_DATA_CONFIG` may name as well.
        Raises `InvalidSettings`."""
        file = file or config_file()
        return cls._of(options, {} if file is None else _written(file, _read(file)))

    @classmethod
    def _of(cls, options: dict[str, Any], written: dict[str, Any]) -> Settings:
        unset = {name: value for name, value in written.items() if (_PREFIX + name).upper() not in os.environ}
        try:
            return cls(**{**unset, **options})
        except ValidationError as error:
            raise InvalidSettings("; ".join(map(_told, error.errors()))) from None


def config_file() -> Path | None:
    """The one that the environment names."""
    named = os.environ.get(f"{_PREFIX}CONFIG")
    return Path(named) if named else None


@dataclass(frozen=True, slots=True)
class Source:
    """A config file, and the options that are more than it: settings that can be read again."""

    file: Path
    options: dict[str, Any]

    def read(self, content: bytes) -> Settings:
        """As `Settings.load` does, of what was found in the file. Raises `InvalidSettings`."""
        return Settings._of(self.options, _written(self.file, content))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidSettings(f"{file}: {error.strerror}") from error


def _written(file: Path, content: bytes) -> dict[str, Any]:
    """What is wrong is told by its place alone: a password may stand there."""
    try:
        read = YAML(typ="safe").load(content.decode())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidSettings(f"{file}{where}: not YAML") from None
    except (YAMLError, ValueError):
        raise InvalidSettings(f"{file}: not YAML") from None
    if read is None:
        return {}
    if not isinstance(read, dict) or not all(isinstance(name, str) for name in read):
        raise InvalidSettings(f"{file}: allowed is a mapping of settings, such as max_rows: 100")
    return read


def _told(error: Any) -> str:
    """A complaint without what was given: there may be a password in it."""
    name = ".".join(map(str, error["loc"]))
    said = error["msg"].removeprefix("Value error, ")
    return f"{name}: {said}" if name else said
