"""What cannot be meant is refused at once, by name, whatever type it has; nothing is corrected."""

from __future__ import annotations

import dataclasses
import ssl
from typing import Any

import pytest

from penstock_pool import ConnectionPool, Limit, PoolSettings, Server
from penstock_pool.errors import InvalidSettings

NO_NUMBERS: list[Any] = ["3", None, [], True, 1.5, b"1", 1 + 1j]
NO_TIMES: list[Any] = ["3", [], True, float("nan"), float("inf"), -1, -0.001]
NO_TEXTS: list[Any] = ["", None, 3, b"app", ["app"]]

WHOLE = ("min", "max", "queue")
TIMES = (
    "checkout_timeout",
    "connect_timeout",
    "ping_timeout",
    "ping_after",
    "heartbeat",
    "idle_timeout",
    "lifetime",
    "kill_timeout",
    "full_retry",
)
OPTIONAL_TIMES = ("hold_warn", "hold_limit", "slow_query")


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [*NO_NUMBERS, -1])
def test_a_count_is_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=f"^{name} is "):
        PoolSettings(**{name: value})


@pytest.mark.parametrize("name", [*TIMES, *OPTIONAL_TIMES])
@pytest.mark.parametrize("value", NO_TIMES)
def test_a_time_is_seconds(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=f"^{name} is .*seconds"):
        PoolSettings(**{name: value})


@pytest.mark.parametrize("name", TIMES)
def test_some_times_may_be_none_at_all_and_some_zero(name: str) -> None:
    with pytest.raises(InvalidSettings, match=f"^{name} is None"):
        PoolSettings(**{name: None})
    if name in ("checkout_timeout", "ping_after"):
        assert getattr(PoolSettings(**{name: 0}), name) == 0
    else:
        with pytest.raises(InvalidSettings, match=f"^{name} is 0"):
            PoolSettings(**{name: 0})


def test_every_field_of_the_settings_is_checked() -> None:
    """A new one is not forgotten here."""
    told = {"name": 1, "limits": [], "slow_explain": "yes"}
    for field in dataclasses.fields(PoolSettings):
        with pytest.raises(InvalidSettings, match=f"^{field.name} is "):
            PoolSettings(**{field.name: told.get(field.name, "a text")})


def test_every_field_of_a_server_is_checked() -> None:
    for field in dataclasses.fields(Server):
        if field.init:
            with pytest.raises(InvalidSettings, match=f"^{field.name} is "):
                Server(**{"user": "app", field.name: 1.5})


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"min": 5, "max": 4}, r"^min is 5; allowed is: 0 to 4$"),
        ({"max": 0, "min": 0}, r"^max is 0; allowed is: 1 or more$"),
        ({"limits": {"reports": 5}}, r"^limits is "),
    ],
)
def test_what_does_not_fit_together_is_told(chosen: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidSettings, match=told):
        PoolSettings(**chosen)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1])
def test_a_limit_is_checked_too(value: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"^concurrency is "):
        Limit(value)
    with pytest.raises(InvalidSettings, match=r"^queue is "):
        Limit(1, queue=value)


@pytest.mark.parametrize("name", ["host", "user", "charset", "program_name"])
@pytest.mark.parametrize("value", NO_TEXTS)
def test_a_name_is_a_text(name: str, value: Any) -> None:
    with pytest.raises(InvalidSettings, match=f"^{name} is "):
        Server(**{"user": "app", name: value})


@pytest.mark.parametrize("init", ["SET x = 1", ["SET x = 1"], (1,), None])
def test_statements_at_the_start_are_a_tuple_of_texts(init: Any) -> None:
    with pytest.raises(InvalidSettings, match=r"^init is "):
        Server(user="app", init=init)


def test_a_wrong_password_is_not_shown() -> None:
    with pytest.raises(InvalidSettings) as told:
        Server(user="app", password=b"secret")  # type: ignore[arg-type]
    assert "secret" not in str(told.value)
    assert "secret" not in repr(Server(user="app", password="secret"))


def test_what_is_right_is_taken() -> None:
    context = ssl.create_default_context()
    server = Server("db", 3307, user="app", password=lambda: "now", tls=context, init=("SET x = 1",))
    assert server.tls is context
    chosen = PoolSettings(min=0, max=1, hold_warn=None, limits={"reports": Limit(1, queue=0)})
    assert chosen.limits["reports"].queue == 0
    with pytest.raises(TypeError):
        chosen.limits["other"] = Limit(1)  # type: ignore[index]


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("mysql://app@db", Server("db", user="app")),
        ("mariadb://app:pass@db:3307/", Server("db", 3307, user="app", password="pass")),
        ("mysql://a:p%40%2Fw@db/my%20shop", Server("db", user="a", password="p@/w", database="my shop")),
        ("mysql://app@[::1]:3307/", Server("::1", 3307, user="app")),
        ("mysql://app@[::1]", Server("::1", user="app")),
        ("mysql://app@/?unix_socket=/run/db", Server(user="app", unix_socket="/run/db")),
        ("mysql://app@db?tls=true&charset=latin1", Server("db", user="app", tls=True, charset="latin1")),
        ("mysql://app@db?tls=false", Server("db", user="app", tls=False)),
    ],
)
def test_a_url_says_it_all(url: str, server: Server) -> None:
    assert Server.from_url(url) == server
    assert ConnectionPool(url, driver=object()).server == server  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "postgres://app:secret@db",
        "app:secret@db",
        "mysql://:secret@db",
        "mysql://app:se/secret@db",
        "mysql://app:1234/secret@db",
        "mysql://app:secret@db:secret",
        "mysql://app:secret@db:0",
        "mysql://app:secret@db:70000",
        "mysql://app:secret@[::1",
        "mysql://app:secret@db?tls=maybe",
        "mysql://app:secret@db?ssl=1",
        "mysql://app:secret#x@db",
        "",
        None,
        5,
        b"mysql://app:secret@db",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_without_its_password(url: Any) -> None:
    with pytest.raises(InvalidSettings) as told:
        Server.from_url(url)
    assert "secret" not in str(told.value)
    assert told.value.__cause__ is None
