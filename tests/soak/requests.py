"""Asks a data service for minutes while its database is killed, restarted, frozen, cut off and failed over;
counts requests that outlive their deadline, answers that are wrong, and writes that are lost or done twice.

python tests/soak/requests.py [--seconds 600] [--seed N]

The way to the database leads through a proxy, which breaks as networks do; a planned failover lets the
replica catch up first. Every write has a key and is repeated under it until it is answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from plugins.data_service import DataService
from plugins.mariadb import DATABASE, PASSWORD, USER, missing
from plugins.replicated import Replicated

from penstock_pool.testing import FaultProxy

ASKERS = 24
TIMEOUT = 2.0
"""Seconds that each request allows itself."""
LATE = 2.0
"""Seconds beyond, on a machine that does other things as well: later it hangs."""
REPEAT = 60.0
"""Seconds for which a write is repeated."""
FAULT_EVERY = 4.0
"""Seconds between two faults, about."""
REFUSALS = frozenset((409, 410, 429, 502, 503, 504))
"""What a client has to expect of a database that comes and goes."""


@dataclass
class Tally:
    """What was asked and what came back."""

    answers: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    hung: int = 0
    slowest: float = 0.0
    kept: set[str] = field(default_factory=set)
    """Words whose write was answered: each is there once."""
    perhaps: set[str] = field(default_factory=set)
    """Words that may be there: their write was given up."""
    memory: list[int] = field(default_factory=list)
    """Resident bytes, second by second."""
    seconds: float = 0.0

    @property
    def growth(self) -> float:
        """The median of the last quarter's memory to that of the second one's."""
        quarter = max(1, len(self.memory) // 4)
        early, late = self.memory[quarter : 2 * quarter], self.memory[-quarter:]
        return sorted(late)[len(late) // 2] / sorted(early)[len(early) // 2] if early else 1.0

    @property
    def sound(self) -> bool:
        return not self.hung and not self.wrong and self.growth < 1.2

    def __str__(self) -> str:
        asked = sum(self.answers.values())
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(self.answers.items()))
        lines = [
            f"{asked} requests in {self.seconds:.0f} s ({asked / max(self.seconds, 1):.0f}/s): {answers}",
            f"faults: {', '.join(f'{count} x {name}' for name, count in sorted(self.faults.items()))}",
            f"{self.hung} hung, the slowest took {self.slowest:.2f} s of {TIMEOUT:g}; "
            f"{len(self.kept)} writes kept, {len(self.perhaps)} given up",
            f"memory {self.memory[0] / 1e6:.0f} to {self.memory[-1] / 1e6:.0f} MB, "
            f"its last quarter {self.growth:.2f} x its second"
            if self.memory
            else "",
        ]
        return "\n".join([*lines, *(f"WRONG {count} x {what}" for what, count in self.wrong.items())])


class Soak:
    """One service, and those who ask it."""

    def __init__(self, service: DataService, http: httpx.AsyncClient, chance: random.Random) -> None:
        self.service, self.http, self.chance = service, http, chance
        self.tally = Tally()
        self.words = 0
        self.ends = 0.0

    async def run(self, seconds: float, faults: Callable[[], Awaitable[None]]) -> Tally:
        began = time.monotonic()
        self.ends = began + seconds
        breaking = asyncio.create_task(faults(), name="faults")
        watching = asyncio.create_task(self.watch(), name="watch")
        async with asyncio.TaskGroup() as asking:
            for number in range(ASKERS):
                asking.create_task(self.ask(), name=f"asker {number}")
        for task in (breaking, watching):
            task.cancel()
        done = await asyncio.gather(breaking, watching, return_exceptions=True)
        for error in done:
            if isinstance(error, Exception):
                self.tally.wrong[f"the soak itself: {error!r}"] += 1
        self.tally.seconds = time.monotonic() - began
        return self.tally

    async def watch(self) -> None:
        assert self.service.process is not None
        process = psutil.Process(self.service.process.pid)
        while True:
            self.tally.memory.append(process.memory_info().rss)
            await asyncio.sleep(1)

    async def ask(self) -> None:
        kinds = {self.echo: 60, self.stream: 10, self.write: 15, self.transaction: 10, self.leave: 5}
        while time.monotonic() < self.ends:
            self.words += 1
            kind = self.chance.choices(list(kinds), list(kinds.values()))[0]
            await kind(f"word-{self.words}")

    # -- what is asked

    async def echo(self, word: str) -> None:
        answer = await self.post("/v1/query", {"sql": "SELECT ?, 7", "params": [word]})
        if answer is not None and answer.status_code == 200:
            self.must_be(answer.json()["rows"], [[word, 7]])

    async def stream(self, word: str) -> None:
        body = {"sql": "SELECT seq, ? FROM seq_1_to_2000", "params": [word]}
        answer = await self.post("/v1/query", body, {"Accept": "application/x-ndjson"})
        if answer is None or answer.status_code != 200:
            return
        lines = [json.loads(line) for line in answer.text.splitlines()]
        rows = [line for line in lines if isinstance(line, list)]
        self.must_be(rows, [[number, word] for number in range(1, len(rows) + 1)])
        if lines[-1] != {"end": {"rows": 2000}}:
            self.must_be(list(lines[-1]), ["error"])

    async def leave(self, word: str) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.chance.random() * 0.05):
                await self.post("/v1/query", {"sql": "SELECT SLEEP(1), ?", "params": [word]})

    async def write(self, word: str) -> None:
        body = {"sql": "INSERT INTO words (word) VALUES (?)", "params": [word]}
        await self.until_answered(word, lambda: self.post("/v1/query", body, {"Idempotency-Key": word}))

    async def transaction(self, word: str) -> None:
        """Begun anew, under another key, whenever it turns out that it was rolled back."""
        for attempt in range(100):
            key = {"Idempotency-Key": f"{word}-{attempt}"}
            begun = await self.post("/v1/transactions", {"seconds": 5})
            if begun is None or begun.status_code != 201:
                return
            path = begun.headers["location"]
            insert = {"sql": "INSERT INTO words (word) VALUES (?)", "params": [word]}
            done = await self.post(f"{path}/query", insert)
            if done is None or done.status_code != 200:
                await self.post(f"{path}/rollback", {})
                return
            if await self.committed(word, path, key):
                return

    async def committed(self, word: str, path: str, key: dict[str, str]) -> bool:
        """Whether it is known how it ended; a commit that was rolled back may be begun again."""
        gives_up = time.monotonic() + REPEAT
        while time.monotonic() < gives_up:
            answer = await self.post(f"{path}/commit", {}, key)
            if answer is not None and answer.status_code == 200:
                self.tally.kept.add(word)
                return True
            if answer is not None and answer.status_code == 410:
                return False
            await asyncio.sleep(0.2)
        self.tally.perhaps.add(word)
        return True

    async def until_answered(self, word: str, ask: Callable[[], Awaitable[httpx.Response | None]]) -> None:
        gives_up = time.monotonic() + REPEAT
        while time.monotonic() < gives_up:
            answer = await ask()
            if answer is not None and answer.status_code == 200:
                self.tally.kept.add(word)
                return
            await asyncio.sleep(0.2)
        self.tally.perhaps.add(word)

    async def post(
        self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> httpx.Response | None:
        """The answer; None when there was none, which is wrong."""
        asked = body if path.endswith(("/commit", "/rollback")) else {"timeout": TIMEOUT, **body}
        began = time.monotonic()
        try:
            answer = await self.http.post(path, json=asked, headers=headers)
        except httpx.HTTPError as error:
            self.tally.wrong[f"{path.rpartition('/')[2]}: {error!r}"] += 1
            return None
        took = time.monotonic() - began
        self.tally.slowest = max(self.tally.slowest, took)
        self.tally.hung += took > TIMEOUT + LATE
        self.tally.answers[answer.status_code] += 1
        if answer.status_code not in (200, 201, *REFUSALS):
            self.tally.wrong[f"{answer.status_code}: {answer.text[:200]}"] += 1
        return answer

    def must_be(self, answer: object, expected: object) -> None:
        if answer != expected:
            self.tally.wrong[f"{answer!r:.100} instead of {expected!r:.100}"] += 1


class Faults:
    """What happens to the database and the way to it."""

    def __init__(self, pair: Replicated, proxy: FaultProxy, soak: Soak) -> None:
        self.pair, self.proxy, self.soak = pair, proxy, soak
        self.db = pair.primary

    async def __call__(self) -> None:
        kinds = [self.kill, self.kill, self.reset, self.cut, self.freeze, self.slow, self.restart, self.crash]
        began, length = time.monotonic(), self.soak.ends - time.monotonic()
        while True:
            await asyncio.sleep(FAULT_EVERY * (0.5 + self.soak.chance.random()))
            over = time.monotonic() > began + length / 2 and self.db is self.pair.primary
            fault = self.fail_over if over else self.soak.chance.choice(kinds)
            self.soak.tally.faults[fault.__name__] += 1
            await fault()
            self.proxy.heal()

    async def kill(self) -> None:
        for connection in (await asyncio.to_thread(self.db.connections))[:5]:
            with contextlib.suppress(AssertionError):  # it has ended meanwhile
                await asyncio.to_thread(self.db.kill, connection)

    async def reset(self) -> None:
        await self.proxy.reset()

    async def cut(self) -> None:
        self.proxy.cut(after=self.soak.chance.randrange(5000), times=20)
        await asyncio.sleep(1)

    async def freeze(self) -> None:
        self.proxy.freeze()
        await asyncio.sleep(self.soak.chance.random() * 4)
        self.proxy.thaw()

    async def slow(self) -> None:
        self.proxy.slow(latency=0.2)
        await asyncio.sleep(2)

    async def restart(self) -> None:
        await asyncio.to_thread(self.db.restart)

    async def crash(self) -> None:
        await asyncio.to_thread(self.db.crash)
        await asyncio.sleep(self.soak.chance.random() * 2)
        await asyncio.to_thread(self.db.start)

    async def fail_over(self) -> None:
        """As an operator does it: no more writes, the replica catches up, and from then on it is the one."""
        pair = self.pair
        await asyncio.to_thread(pair.read_only, pair.primary, on=True)
        await asyncio.to_thread(pair.primary.admin, "FLUSH TABLES WITH READ LOCK")
        await asyncio.to_thread(pair.wait_caught_up)
        await asyncio.to_thread(pair.promote)
        self.db = pair.replica
        self.proxy.server = ("127.0.0.1", self.db.port)
        await self.proxy.reset()


@contextlib.asynccontextmanager
async def asked(folder: Path, proxy: FaultProxy, chance: random.Random) -> AsyncIterator[Soak]:
    url = f"mysql://{USER}:{PASSWORD}@127.0.0.1:{proxy.port}/{DATABASE}"
    service = DataService(
        folder, url=url, min=2, max=12, timeout=TIMEOUT, timeout_limit=TIMEOUT, tenant_concurrency=ASKERS
    )
    await asyncio.to_thread(service.start)  # by way of the proxy, which is ours
    try:
        limits = httpx.Limits(max_connections=2 * ASKERS)
        async with httpx.AsyncClient(
            base_url=service.url, headers=service.bearer(seconds=7200), timeout=15, limits=limits
        ) as http:
            yield Soak(service, http, chance)
    finally:
        service.kill()


async def soak(pair: Replicated, folder: Path, seconds: float, chance: random.Random) -> Tally:
    """What came of it. At the end every write that was answered is there once, and no other."""
    pair.primary.admin(f"CREATE TABLE {DATABASE}.words (word VARCHAR(64) NOT NULL, KEY (word))")
    pair.wait_caught_up()
    async with FaultProxy("127.0.0.1", pair.primary.port) as proxy, asked(folder, proxy, chance) as asking:
        faults = Faults(pair, proxy, asking)
        tally = await asking.run(seconds, faults)
        if faults.db.process is None:
            faults.db.start()
        faults.db.thaw()
        there = Counter(row[0] for row in faults.db.admin(f"SELECT word FROM {DATABASE}.words"))
    tally.wrong["writes lost"] += len(tally.kept - there.keys())
    tally.wrong["writes done twice"] += sum(count > 1 for count in there.values())
    tally.wrong["writes that nobody made"] += len(there.keys() - tally.kept - tally.perhaps)
    tally.wrong += Counter()
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description="Asks while all breaks; see the module's docstring.")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    if told := missing():
        sys.exit(told)
    print(f"asking for {options.seconds:g} s (seed {options.seed})", flush=True)
    with tempfile.TemporaryDirectory(prefix="pst-") as folder, Replicated() as pair:
        tally = asyncio.run(soak(pair, Path(folder), options.seconds, random.Random(options.seed)))
    print(tally)
    sys.exit(not tally.sound)


if __name__ == "__main__":
    main()
