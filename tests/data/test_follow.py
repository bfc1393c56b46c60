"""The config file is followed while the service runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from plugins.asked import asking
from plugins.data_service import DataService
from plugins.house import eventually


def write(service: DataService, **changes: Any) -> None:
    """As a ConfigMap's file changes: at once, by another file in its place."""
    new = service.config.with_suffix(".new")
    new.write_text(json.dumps({**service.settings, **changes}))
    new.rename(service.config)


async def test_another_sizing_is_in_force_at_once_and_ends_nothing(
    service_of: Callable[..., DataService],
) -> None:
    service = service_of(min=1, max=2, generation=1)
    async with asking(service) as ann:

        async def told() -> dict[str, Any]:
            pool: dict[str, Any] = (await ann.http.get("/v1/pool")).json()
            return pool

        write(service, min=3, max=7, generation=2, checkout_timeout=1.5, heartbeat=2)
        await eventually(lambda: holds(told, generation=2))
        after = await told()
        assert {name: after[name] for name in ("min", "max", "checkout_timeout", "heartbeat")} == {
            "min": 3,
            "max": 7,
            "checkout_timeout": 1.5,
            "heartbeat": 2,
        }
        assert after["lost"] == 0
        await eventually(lambda: holds(told, idle=3))
    assert "in force is now min=3, max=7, checkout_timeout=1.5, generation=2, heartbeat=2.0" in service.log()


async def holds(told: Callable[[], Any], **wanted: object) -> bool:
    pool = await told()
    return all(pool[name] == value for name, value in wanted.items())


async def test_what_cannot_be_meant_changes_nothing_and_is_told_once(
    service_of: Callable[..., DataService],
) -> None:
    service = service_of(min=1, max=2, generation=5)
    for changes, complaint in (
        ({"max": 0}, "max: Input should be greater than or equal to 1"),
        ({"min": 9}, "min is 9, more than max, 2"),
        ({"generation": 4, "max": 9}, "generation 4 is older than 5"),
    ):
        write(service, **changes)
        await eventually(lambda complaint=complaint: complaint in service.log(), within=10)
    for text, where in (
        ("url: s3cret\npassword: s3cret: 1", "line 2, column 17"),
        ("a: s3cret\na: s3cret", "line 2, column 1"),
        ("max: *s3cret", "line 1, column 6"),
        ("max: !!int s3cret", ""),
        ("{", "line 1, column 2"),
    ):
        before = service.log().count("not YAML")
        service.config.write_text(text)
        await eventually(lambda before=before: service.log().count("not YAML") > before, within=10)
        assert where in service.log().splitlines()[-1]
    assert "s3cret" not in service.log()
    service.config.unlink()
    await eventually(lambda: "No such file" in service.log(), within=10)
    async with asking(service) as ann:
        pool = (await ann.http.get("/v1/pool")).json()
        assert (pool["min"], pool["max"], pool["generation"]) == (1, 2, 5)
        write(service, max=3)
        await eventually(lambda: "in force is now max=3" in service.log(), within=10)
        assert (await ann.http.get("/v1/pool")).json()["max"] == 3
    assert service.log().count("No such file") == 1


async def test_what_needs_a_restart_is_told(service_of: Callable[..., DataService]) -> None:
    service = service_of(min=1, max=2)
    write(service, max=3, max_rows=7)
    await eventually(lambda: "a restart is needed for max_rows" in service.log(), within=10)
    assert "in force is now max=3" in service.log()


async def test_options_and_environment_are_more_than_the_file(
    service_of: Callable[..., DataService],
) -> None:
    service = service_of(started=False, min=1, max=2)
    service.start(environment={"PENSTOCK_DATA_MAX": "6"})
    write(service, min=2, max=4)
    await eventually(lambda: "in force is now min=2" in service.log(), within=10)
    async with asking(service) as ann:
        assert (await ann.http.get("/v1/pool")).json()["max"] == 6
