"""`penstock-data --demo`: what it prints can be pasted, and it leaves nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from plugins.house import eventually
from plugins.mariadb import missing_is_told
from plugins.ports import free_port

DEMO = [sys.executable, "-m", "penstock_data", "--demo"]


class Demo:
    """One under way, with temporary files in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self._log = folder, folder.parent / "log"
        environment = {**os.environ, "TMPDIR": str(folder)}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*DEMO, *options], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )

    def told(self) -> str:
        """All that it prints before it serves."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if "/v1/pool" in line:
                return "".join(lines)
        raise AssertionError(self._log.read_text())

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)

    @property
    def servers(self) -> list[psutil.Process]:
        """The databases that run in its folder."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.folder) in word for word in process.info["cmdline"] or ())
            and process.pid != self.process.pid
        ]


@pytest.fixture
def demo(short_tmp: Path) -> Iterator[Callable[..., Demo]]:
    missing_is_told()
    with ExitStack() as ended:

        def demo(*options: str) -> Demo:
            folder = short_tmp / "tmp"
            folder.mkdir()
            running = Demo(folder, *options)
            ended.callback(running.process.wait)
            ended.callback(running.process.terminate)
            assert running.process.stdout is not None
            ended.enter_context(running.process.stdout)
            return running

        yield demo


async def pasted(command: str, token: str) -> httpx.Response:
    """What curl would be answered, once there is somebody to answer."""
    words = shlex.split(command.replace("$TOKEN", token))[2:]
    url, headers, data = words.pop(0), {}, None
    while words:
        option, value = words.pop(0), words.pop(0)
        if option == "-d":
            data = value
        else:
            name, _, text = value.partition(": ")
            headers[name] = text
    async with httpx.AsyncClient(trust_env=False) as http:

        async def answered() -> httpx.Response | None:
            try:
                return await http.request(
                    "GET" if data is None else "POST", url, content=data, headers=headers
                )
            except httpx.ConnectError:
                return None

        answer = await eventually(answered, within=30)
        assert answer is not None
        return answer


async def test_what_it_prints_works_when_pasted_and_nothing_is_left(demo: Callable[..., Demo]) -> None:
    running = demo("--port", str(free_port()))
    told = running.told().replace("\\\n", "")
    token = re.findall(r"export TOKEN=(\S+)", told)[0]
    point, insert, lines, pool = [
        await pasted(line, token) for line in told.splitlines() if line.startswith("curl")
    ]
    assert point.json()["rows"] == [[7, "a pipe", "12.30"]]
    assert insert.json() == {"affected_rows": 1, "insert_id": 8}
    assert json.loads(lines.text.splitlines()[-1]) == {"end": {"rows": 8}}
    assert pool.json()["max"] == 30
    assert len(running.servers) == 1
    assert running.end(signal.SIGINT) == 0
    assert running.servers == []
    assert list(running.folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_it_is_ended_while_it_begins(demo: Callable[..., Demo], number: signal.Signals) -> None:
    running = demo("--port", str(free_port()))
    await eventually(lambda: list(running.folder.glob("*/first.sql")), within=30)
    assert running.end(number) in (128 + number, 130)
    await eventually(lambda: not running.servers)
    assert list(running.folder.iterdir()) == []


def ended(*options: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [*DEMO, *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def test_without_mariadb_it_says_what_to_install(tmp_path: Path) -> None:
    without: dict[str, Any] = {"PATH": str(tmp_path)}
    told = (
        "import penstock_data.demo as d; d._PATH = ''; from penstock_data.cli import main; main(['--demo'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", told],
        capture_output=True,
        text=True,
        env={**os.environ, **without},
        check=False,
    )
    assert done.returncode == 3
    assert "install mariadb-server" in done.stderr


def test_a_database_of_ones_own_is_no_demo() -> None:
    code, told = ended("--url", "mysql://app@db/shop")
    assert code == 2
    assert "leave out url" in told


def test_settings_are_checked_there_too(short_tmp: Path) -> None:
    missing_is_told()
    code, told = ended("--max-rows", "many", TMPDIR=str(short_tmp))
    assert (code, list(short_tmp.iterdir())) == (2, [])
    assert "max_rows" in told
