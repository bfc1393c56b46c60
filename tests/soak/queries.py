"""Asks a real MariaDB a million questions over one pool, each with a word of its own in it; counts answers
that were somebody else's, and what was left in a session.

python tests/soak/queries.py [--queries 1000000] [--seed N]

Many tasks share few connections. Some questions have many rows, some are prepared, some are asked in
transactions, some leave their session dirty; some are cancelled at a random moment, some connections are
killed on the server, and it is looked again and again how many the server counts.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))
from plugins.mariadb import USER, MariaDB, missing
from plugins.pooled import server_of

from penstock_pool import ConnectionPool, PoolSettings
from penstock_pool.errors import ConnectionLost

TASKS, CONNECTIONS = 200, 20
SERVER = {"max_user_connections": CONNECTIONS}
"""What the server is told: one connection too many is refused."""
CANCELLED = 0.03
"""Share of the questions that is cancelled, unless it is answered before."""
LOOK_EVERY = 0.25
"""Seconds between two looks at the server; at each fourth one a connection is killed."""

DIRT = (
    "SET @mine = '{}'",
    "SET @mine = '{}', sql_mode = 'ANSI_QUOTES'",
    "SELECT @mine := '{}'",
    "SELECT GET_LOCK('{}', 0)",
    "CREATE OR REPLACE TEMPORARY TABLE mine SELECT '{}' AS word",
    "SET NAMES latin1 /* {} */",
    "BEGIN /* {} */",
)
LEFT = "SELECT '{}', @mine, @@in_transaction, @@sql_mode = @@global.sql_mode, @@character_set_client"
CLEAN = (None, 0, 1, "utf8mb4")


@dataclass
class Tally:
    """What was asked and what came back."""

    asked: int = 0
    cancelled: int = 0
    kills: int = 0
    lost: int = 0
    """Questions whose connection was killed under them."""
    most: int = 0
    """Connections of ours that the server counted, at most at a look."""
    refused: int = 0
    """Connects that failed: the server allows us not one more than the pool's max."""
    peak: int = 0
    """The server's own count of the most at once (Max_used_connections); who looks is counted, too, and may
    still be when it looks again."""
    seconds: float = 0.0
    wrong: Counter[str] = field(default_factory=Counter)

    @property
    def sound(self) -> bool:
        within = self.most <= CONNECTIONS and not self.refused and self.peak <= CONNECTIONS + 2
        return within and not self.wrong and self.lost <= self.kills

    def __str__(self) -> str:
        rate = self.asked / self.seconds if self.seconds else 0
        return "\n".join(
            [
                f"{self.asked} queries in {self.seconds:.1f} s ({rate:.0f}/s), {self.cancelled} cancelled, "
                f"{self.kills} connections killed ({self.lost} queries lost by it): "
                f"{self.wrong['foreign']} answers of somebody else, {self.wrong['left']} leftovers, "
                f"at most {self.most} connections of {CONNECTIONS} (with those who look {self.peak}), "
                f"{self.refused} refused",
                *(f"{count} x {what}" for what, count in self.wrong.items()),
            ]
        )


class Soak:
    """One pool, and those who ask over it."""

    def __init__(self, pool: ConnectionPool, db: MariaDB, chance: random.Random) -> None:
        self.pool, self.db, self.chance = pool, db, chance
        self.tally = Tally()
        self.questions = 0
        kinds = {self.one: 80, self.many: 6, self.prepared: 4, self.together: 4, self.dirty: 3, self.left: 3}
        self.kinds, self.weights = list(kinds), list(kinds.values())

    async def run(self, queries: int) -> Tally:
        began = time.monotonic()
        looking = asyncio.create_task(self.look(), name="look")
        async with asyncio.TaskGroup() as asking:
            for number in range(TASKS):
                asking.create_task(self.ask(queries), name=f"asker {number}")
        self.tally.seconds = time.monotonic() - began
        self.tally.refused = self.pool.stats().failed
        looking.cancel()
        await asyncio.wait({looking})
        self.tally.peak = int(self.db.admin("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")[0][1])
        return self.tally

    async def ask(self, queries: int) -> None:
        tally, chance = self.tally, self.chance
        while self.questions < queries:
            self.questions += 1
            word = f"word-{self.questions}"
            question = chance.choices(self.kinds, self.weights)[0]
            if chance.random() < CANCELLED:
                await self.cut_short(self.slow if chance.random() < 0.02 else question, word)
            else:
                await self.noted(question(word))
        tally.asked = self.questions

    async def cut_short(self, question: Callable[[str], Awaitable[None]], word: str) -> None:
        try:
            async with asyncio.timeout(self.chance.random() * 0.02):
                await self.noted(question(word))
        except TimeoutError:
            self.tally.cancelled += 1

    async def noted(self, question: Awaitable[None]) -> None:
        try:
            await question
        except ConnectionLost:
            self.tally.lost += 1
        except Exception as error:
            self.tally.wrong[repr(error)] += 1

    def must_be(self, answer: object, expected: object, what: str = "foreign") -> None:
        if answer != expected:
            self.tally.wrong[what] += 1
            self.tally.wrong[f"{answer!r} instead of {expected!r}"] += 1

    # -- what is asked

    async def one(self, word: str) -> None:
        self.must_be(await self.pool.fetchval(f"SELECT '{word}'"), word)

    async def many(self, word: str) -> None:
        rows = await self.pool.fetch(" UNION ALL ".join(f"SELECT '{word}', {row}" for row in range(30)))
        self.must_be(rows, tuple((word, row) for row in range(30)))

    async def prepared(self, word: str) -> None:
        self.must_be(await self.pool.fetchval("SELECT %s", (word,)), word)

    async def together(self, word: str) -> None:
        async with self.pool.transaction() as connection:
            for part in range(3):
                told = await connection.fetchrow(f"SELECT '{word}', {part}, @@in_transaction")
                self.must_be(told, (word, part, 1))

    async def dirty(self, word: str) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(self.chance.choice(DIRT).format(word))
            self.must_be(await connection.fetchval(f"SELECT '{word}'"), word)

    async def left(self, word: str) -> None:
        told = await self.pool.fetchrow(LEFT.format(word))
        assert told is not None
        self.must_be(told[0], word)
        self.must_be(told[1:], CLEAN, "left")

    async def slow(self, word: str) -> None:
        self.must_be(await self.pool.fetchval(f"SELECT '{word}' FROM (SELECT SLEEP(5)) AS slept"), word)

    # -- who looks

    async def look(self) -> None:
        looks = 0
        while True:
            there = await asyncio.to_thread(self.db.connections, USER)
            self.tally.most = max(self.tally.most, len(there))
            looks += 1
            if there and looks % 4 == 0:
                with contextlib.suppress(AssertionError):  # it has ended meanwhile
                    await asyncio.to_thread(self.db.kill, self.chance.choice(there))
                    self.tally.kills += 1
            await asyncio.sleep(LOOK_EVERY)


@contextlib.asynccontextmanager
async def opened(db: MariaDB) -> AsyncIterator[ConnectionPool]:
    chosen = PoolSettings(min=CONNECTIONS, max=CONNECTIONS, checkout_timeout=30.0)
    async with ConnectionPool(server_of(db.address, statement_cache=8), chosen) as pool:
        yield pool


def soak(db: MariaDB, queries: int, chance: random.Random) -> Tally:
    async def asks() -> Tally:
        async with opened(db) as pool:
            return await Soak(pool, db, chance).run(queries)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asks())


def main() -> None:
    parser = argparse.ArgumentParser(description="Asks again and again; see the module's docstring.")
    parser.add_argument("--queries", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    if told := missing():
        sys.exit(told)
    print(f"asking {options.queries} times over {CONNECTIONS} connections (seed {options.seed})", flush=True)
    with MariaDB(**SERVER) as db:
        tally = soak(db, options.queries, random.Random(options.seed))
    print(tally)
    sys.exit(not tally.sound)


if __name__ == "__main__":
    main()
