"""What the operator is told when it starts, in one frozen object, checked at once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from penstock_operator.errors import InvalidSettings

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one operator. Raises `InvalidSettings`."""

    image: str
    """Image of the data service, for pools that name none."""

    namespaces: tuple[str, ...] = ()
    """Namespaces whose pools are looked after. None named: all of them, and those to come."""

    port: int | None = 8081
    """Port where /healthz answers while the event loop runs. None: nowhere."""

    looks: int = 8
    """Pools that are looked at at the same time: a bound on what the apiserver is asked."""

    resync: float = 300.0
    """Seconds after which a pool is looked at though nothing was heard of it."""

    def __post_init__(self) -> None:
        _check(bool(self.image.strip()), "image", self.image, "the name of an image")
        for namespace in self.namespaces:
            _check(bool(_NAMESPACE.fullmatch(namespace)), "namespace", namespace, "the name of a namespace")
        _check(self.port is None or 0 < self.port < 65536, "port", self.port, "1 to 65535")
        _check(self.looks > 0, "looks", self.looks, "1 or more")
        _check(self.resync > 0, "resync", self.resync, "seconds above 0")


def _check(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise InvalidSettings(f"{name} is {value!r}; allowed is: {allowed}")
