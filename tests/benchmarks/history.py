"""What a long history and many apps cost: the same questions beside a Penstock that has neither."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from harness import Penstock, Result, folder, present
from plugins import long_history
from plugins.penstock import static

from penstock_pipeline.store import SqliteStore


@contextlib.contextmanager
def penstock_with(*, apps: int, runs: int) -> Iterator[Penstock]:
    """A Penstock that has had these runs of these apps, and `fresh`, an app that was pushed once."""
    with folder() as here:
        running = Penstock(here)
        running.state.mkdir(mode=0o700)
        asyncio.run(_remember(running.state, apps, runs))
        with running:
            repository = running.add("fresh")
            repository.commit(static("one"))
            pushed = repository.push()
            assert pushed.code == 0, pushed.said
            yield running


async def _remember(state: Path, apps: int, runs: int) -> None:
    store = SqliteStore(state / "penstock.db")
    await store.open()
    await store.write(long_history.write, apps=apps, runs=runs, live=False)
    await store.close()


def questions(penstock: Penstock) -> dict[str, Callable[[], object]]:
    """By what they are called: what is asked all day, a refresh as a run with little to do, and a restart."""

    def run() -> None:
        penstock.finished(penstock.api("/apps/fresh/refresh", {})["id"])

    def restart() -> None:
        penstock.stop()
        penstock.start()

    newest = penstock.api("/runs?limit=1")[0]["id"]
    return {
        "run": run,
        "apps": lambda: penstock.api("/apps"),
        "status": lambda: penstock.api("/status"),
        "runs": lambda: penstock.api("/runs"),
        "show": lambda: penstock.api(f"/runs/{newest}"),
        "follow": lambda: penstock.api(f"/runs/{newest}/events"),
        "releases": lambda: penstock.api("/apps/fresh/releases"),
        "restart": restart,
    }


def milliseconds(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return 1000 * (time.perf_counter() - began)


def measure(quick: bool) -> Iterable[Result]:
    """In turns, so that what else the machine does befalls all alike."""
    runs, apps, rounds = (100, 5, 1) if quick else (10_000, 300, 15)
    with (
        penstock_with(apps=1, runs=1) as young,
        penstock_with(apps=1, runs=runs) as old,
        penstock_with(apps=apps, runs=apps) as large,
    ):
        asked = {name: questions(one) for name, one in (("young", young), ("old", old), ("large", large))}
        for question in asked["young"]:
            times: dict[str, list[float]] = {name: [] for name in asked}
            for _ in range(min(rounds, 5) if question == "restart" else rounds):
                for name, all_of_them in asked.items():
                    times[name].append(milliseconds(all_of_them[question]))
            least = {name: statistics.median(some) for name, some in times.items()}
            yield Result(f"long_history_{question}_p50_ms", least["old"], "ms", floor=least["young"])
            yield Result(f"many_apps_{question}_p50_ms", least["large"], "ms", floor=least["young"])


if __name__ == "__main__":
    present("history", measure)
