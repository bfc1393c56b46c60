"""What a ConnectionPool resource asks for. The CRD refuses most of what cannot be meant and fills in the same
defaults; here they are once more, for resources that an older CRD let in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from penstock_operator.errors import InvalidSpec

GROUP, VERSION, KIND, PLURAL = "penstock.dev", "v1alpha1", "ConnectionPool", "connectionpools"

DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
HOST = r"^[A-Za-z0-9._-]+$"
OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A Secret of the pool's namespace."""

    name: str


class Tls(StrEnum):
    """How the database is spoken to."""

    VERIFY = "Verify"
    """Encrypted, and with no other than the one of that name: by the CA that is given, else the system's."""

    DISABLED = "Disabled"
    """In plain text, for a network that nobody else can read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Which database, and who asks."""

    host: str
    port: int = 3306
    name: str
    credentials_secret_ref: SecretRef
    """With the keys `username` and `password`."""
    tls: Tls = Tls.VERIFY
    ca_secret_ref: SecretRef | None = None
    """A Secret of the pool's namespace, with the key `ca.crt`. None: the image's authorities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """How many connections each replica holds."""

    min: int = 10
    max: int = 30
    checkout_timeout: float = 3.0
    """Seconds a borrower waits for a connection."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How often idle connections are asked whether they live."""

    interval: float = 5.0
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Kubernetes' own fields, by its names; which path is asked is fixed."""

    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 2
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadinessProbe(Probe):
    """The only one that may want more than one success."""

    period_seconds: int = 5
    failure_threshold: int = 2
    success_threshold: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupProbe(Probe):
    """A minute for the first `min` connections."""

    period_seconds: int = 2
    failure_threshold: int = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """When a pod is restarted, gets traffic, and is given up at its start."""

    liveness: Probe = Probe()
    readiness: ReadinessProbe = ReadinessProbe()
    startup: StartupProbe = StartupProbe()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """All that is asked for, each default in its place."""

    database: Database
    pool: Sizing = Sizing()
    heartbeat: Heartbeat = Heartbeat()
    probes: Probes = Probes()
    replicas: int = 1
    image: str | None = None
    """None: the operator's own choice."""
    resources: Mapping[str, Any] = field(default_factory=dict)
    """Of the container, as Kubernetes takes them."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A ConnectionPool: which one, and what it asks for."""

    namespace: str
    name: str
    uid: str
    generation: int
    spec: Spec


def read(resource: Mapping[str, Any]) -> Pool:
    """The resource as the cluster has it. Raises `InvalidSpec`, which names the field."""
    meta = resource["metadata"]
    spec = _spec(_Part("spec", resource.get("spec")))
    return Pool(meta["namespace"], meta["name"], meta["uid"], meta["generation"], spec)


def _spec(given: _Part) -> Spec:
    return Spec(
        database=_database(given.part("database")),
        pool=_sizing(given.part("pool")),
        heartbeat=_heartbeat(given.part("heartbeat")),
        probes=_probes(given.part("probes")),
        replicas=given.whole("replicas", 0, default=1),
        image=given.text("image") if given.has("image") else None,
        resources=given.part("resources").given,
    )


def _database(given: _Part) -> Database:
    tls = Tls(given.one_of("tls", list(Tls), default=Tls.VERIFY))
    useless = tls is Tls.DISABLED and given.has("caSecretRef")
    given.check(not useless, "tls", "Verify, for which caSecretRef is")
    return Database(
        host=given.text("host", HOST),
        port=given.whole("port", 1, 65535, default=3306),
        name=given.text("name", most=64),
        credentials_secret_ref=_secret(given.part("credentialsSecretRef")),
        tls=tls,
        ca_secret_ref=_secret(given.part("caSecretRef")) if given.has("caSecretRef") else None,
    )


def _secret(given: _Part) -> SecretRef:
    return SecretRef(given.text("name", OBJECT_NAME))


def _sizing(given: _Part) -> Sizing:
    default = Sizing()
    most = given.whole("max", 1, default=default.max)
    return Sizing(
        min=given.whole("min", 0, most, default=default.min),
        max=most,
        checkout_timeout=given.seconds("checkoutTimeout", default=default.checkout_timeout),
    )


def _heartbeat(given: _Part) -> Heartbeat:
    interval = given.seconds("interval", default=Heartbeat().interval)
    given.check(interval > 0, "interval", "more than 0s")
    return Heartbeat(interval)


def _probes(given: _Part) -> Probes:
    default = Probes()
    return Probes(
        liveness=_probe(given.part("liveness"), default.liveness),
        readiness=_probe(given.part("readiness"), default.readiness),
        startup=_probe(given.part("startup"), default.startup),
    )


P = TypeVar("P", bound=Probe)


def _probe(given: _Part, default: P) -> P:
    times = {
        "initial_delay_seconds": given.whole("initialDelaySeconds", 0, default=default.initial_delay_seconds),
        "period_seconds": given.whole("periodSeconds", 1, default=default.period_seconds),
        "timeout_seconds": given.whole("timeoutSeconds", 1, default=default.timeout_seconds),
        "failure_threshold": given.whole("failureThreshold", 1, default=default.failure_threshold),
    }
    if isinstance(default, ReadinessProbe):
        times["success_threshold"] = given.whole("successThreshold", 1, default=default.success_threshold)
    return type(default)(**times)


class _Part:
    """A mapping in the resource and where it is, so that whatever is wrong in it is told by its full name."""

    def __init__(self, path: str, given: object) -> None:
        if not isinstance(given, Mapping | None):
            raise InvalidSpec(f"{path} is {given!r}; allowed is: a mapping")
        self.path = path
        self.given: Mapping[str, Any] = given or {}

    def has(self, name: str) -> bool:
        return self.given.get(name) is not None

    def part(self, name: str) -> _Part:
        """The mapping below; an absent one is empty."""
        return _Part(f"{self.path}.{name}", self.given.get(name))

    def text(self, name: str, pattern: str = ".+", *, most: int = 253) -> str:
        value = self.given.get(name)
        holds = isinstance(value, str) and re.fullmatch(pattern, value) and len(value) <= most
        self.check(bool(holds), name, f"text of at most {most} characters that matches {pattern}")
        return str(value)

    def one_of(self, name: str, allowed: Sequence[str], *, default: str) -> str:
        value = self.given[name] if self.has(name) else default
        self.check(value in allowed, name, " or ".join(allowed))
        return str(value)

    def whole(self, name: str, least: int, most: int | None = None, *, default: int) -> int:
        """A whole number; true and false are none."""
        value = self.given[name] if self.has(name) else default
        whole = isinstance(value, int) and not isinstance(value, bool)
        holds = whole and least <= value and (most is None or value <= most)
        self.check(holds, name, f"{least} or more" if most is None else f"{least} to {most}", default)
        return int(value)

    def seconds(self, name: str, *, default: float) -> float:
        """A duration such as 250ms, 3s or 1m30s."""
        if not self.has(name):
            return default
        text = self.text(name, DURATION, most=32)
        parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
        return sum(float(number) * _SECONDS[unit] for number, unit in parts)

    def check(self, holds: bool, name: str, allowed: str, default: object = None) -> None:
        if not holds:
            value = self.given.get(name, default)
            raise InvalidSpec(f"{self.path}.{name} is {value!r}; allowed is: {allowed}")
