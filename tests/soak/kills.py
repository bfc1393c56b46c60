"""Ends the engine by SIGKILL at random moments after a delivery was accepted; counts what got lost or stuck.

python tests/soak/kills.py [--kills 300] [--seed N]

Each round changes one of two apps, delivers the change by a signed webhook and, once that is answered with
2xx, waits a random part of a run and kills; now and then two changes come at once, or the new engine ends
likewise while it resumes. What was accepted must go live within `PATIENCE`, and go on within 2 seconds of the
new engine's start.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))
from plugins.pace import slow, spread
from plugins.penstock import Penstock, Repository, service, static

PATIENCE = 30.0
"""Seconds after which a run that has not ended counts as stuck."""

SECRET = "a secret of the soak's own"


@dataclass
class Tally:
    """What was done and what became of it."""

    kills: int = 0
    accepted: int = 0
    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    """Seconds from the start of an engine to the first new event of each run that it took up, as a quiet
    machine would have had them."""
    ended: list[float] = field(default_factory=list)
    """Seconds from the start of an engine until everything that was accepted had ended."""

    @property
    def sound(self) -> bool:
        return not (self.lost or self.stuck or self.wrong or slow(self.resumed))

    def __str__(self) -> str:
        problems = [*self.lost, *self.stuck, *self.wrong, *slow(self.resumed)]
        counts = f"{len(self.lost)} lost, {len(self.stuck)} stuck, {len(self.wrong)} wrong"
        told = f"{self.kills} kills, {self.accepted} accepted, {counts}; after a start, "
        told += f"{len(self.resumed)} runs went on {spread(self.resumed)}, all ended {spread(self.ended)}"
        return "\n".join([told, *problems])


class Source:
    """An app whose repository is elsewhere, and the forge that tells of its changes."""

    def __init__(self, penstock: Penstock, name: str, files: Callable[[str], dict[str, str]]) -> None:
        self.name = name
        self._penstock = penstock
        self._files = files
        self._work = Repository(penstock.folder / f"{name}-source")
        self.commits: list[str] = []
        where = str(self._work.folder)
        penstock.api("/apps", {"name": name, "repository": where, "webhook_secret": SECRET})

    def deliver(self) -> None:
        """Commits a change and delivers it; returns once it is accepted."""
        version = f"{self.name}-{len(self.commits)}"
        commit = self._work.commit(self._files(version))
        event = {"ref": "refs/heads/main", "after": commit, "pusher": {"name": "soak"}}
        body = json.dumps(event).encode()
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": commit,
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        url = f"{self._penstock.client['url']}/hooks/github/{self.name}"
        answer = self._penstock.ask(url, body, headers=headers)
        assert 200 <= answer.status < 300, answer.body
        self.commits.append(commit)

    @property
    def newest(self) -> str:
        """What its page must say in the end."""
        return f"<h1>{self.name}-{len(self.commits) - 1}</h1>\n"


def soak(penstock: Penstock, kills: int, chance: random.Random) -> Tally:
    tally = Tally()
    sources = [Source(penstock, "shop", service), Source(penstock, "page", static)]
    while tally.kills < kills:
        told = chance.sample(sources, k=chance.choice((1, 1, 1, 2)))
        for source in told:
            source.deliver()
            tally.accepted += 1
        _kill(penstock, tally, chance, within=0.6)
        if chance.random() < 0.25:
            penstock.start()
            _kill(penstock, tally, chance, within=0.3)
        began = time.monotonic()
        penstock.start()
        for source in told:
            _check_run(penstock, source, tally)
        tally.ended.append(time.monotonic() - began)
        _progress(tally, kills)
    for source in sources:
        _check_pages(penstock, source, tally)
    return tally


def _kill(penstock: Penstock, tally: Tally, chance: random.Random, *, within: float) -> None:
    time.sleep(chance.uniform(0, within))
    penstock.kill()
    tally.kills += 1


def _check_run(penstock: Penstock, source: Source, tally: Tally) -> None:
    commit = source.commits[-1]
    run = next((run for run in _runs(penstock, source) if run["commit"] == commit), None)
    if run is None:
        tally.lost.append(f"{source.name}: {commit} was accepted and is not there")
        return
    deadline = time.monotonic() + PATIENCE
    while run["status"] in ("queued", "running"):
        if time.monotonic() > deadline:
            tally.stuck.append(f"{source.name}: run {run['id']} is {run['status']} still")
            return
        time.sleep(0.02)
        run = penstock.api(f"/runs/{run['id']}")["run"]
    if (seconds := penstock.resumed(run["id"])) is not None:
        tally.resumed.append(seconds / penstock.slower)
    if run["status"] != "succeeded":
        tally.wrong.append(f"{source.name}: run {run['id']} {run['status']}: {run['error']}")


def _runs(penstock: Penstock, source: Source) -> Iterator[dict[str, Any]]:
    yield from penstock.api(f"/runs?app={source.name}&limit=5")


def _check_pages(penstock: Penstock, source: Source, tally: Tally) -> None:
    urls = penstock.urls(source.name)
    for url in (urls["app"], *urls["edges"]):
        page = penstock.ask(f"{url}index.html").body.decode()
        if page != source.newest:
            tally.wrong.append(f"{urlsplit(url).netloc} serves {page!r} instead of {source.newest!r}")


def _progress(tally: Tally, kills: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{tally.kills} of {kills} kills", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Kills the engine again and again; see the module's docstring."
    )
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    print(f"killing the engine {options.kills} times (seed {options.seed})", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="pst-"))
    try:
        with Penstock(folder) as penstock:
            tally = soak(penstock, options.kills, random.Random(options.seed))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(tally)
    sys.exit(not tally.sound)


if __name__ == "__main__":
    main()
