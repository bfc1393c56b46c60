"""`penstock demo`: three real pushes of a sample app, on this machine, in a folder of its own.

The second push changes the app, the third breaks its health check. With `once` the demo checks what came of
them, byte by byte, and cleans up.
"""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

GIT = ("git", "-c", "user.name=You", "-c", "user.email=you@example.com", "-c", "commit.gpgsign=false")
READY_WITHIN = 30


def main(once: bool, folder: Path | None) -> int:
    """Runs the demo in `folder` (`.demo` here by default), which is made anew. Returns the exit code: 0 where
    everything came out as it must."""
    folder = (folder or Path(".demo")).absolute()
    if folder.exists():
        _down(folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    demo = _Demo(folder, once)
    try:
        return demo.run()
    except KeyboardInterrupt:
        return 0
    finally:
        _tell("cleaning up")
        _down(folder)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Demo:
    folder: Path
    once: bool

    @property
    def app(self) -> Path:
        return self.folder / "shop"

    def run(self) -> int:
        engine = self._up()
        codes = self._three_pushes()
        problems = self._check(codes)
        for problem in problems:
            _say(f" !     {problem}")
        self._show_urls()
        if self.once:
            _tell("everything is as it must be" if not problems else "not as it must be")
        else:
            _tell("it stays until Ctrl-C; look around")
            engine.wait()
        return 1 if problems else 0

    def _up(self) -> subprocess.Popen[bytes]:
        _tell("starting Penstock, on free ports, with its state in", self.folder)
        ports = (
            "--port",
            "0",
            "--router-port",
            "0",
            "--edge-port",
            "0",
            "--edge-port",
            "0",
            "--app-ports",
            "0",
        )
        _say(f"$ penstock up {' '.join(ports)}")
        with (self.folder / "up.log").open("wb") as output:
            engine = subprocess.Popen(
                _penstock(self.folder, "up", *ports), stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + READY_WITHIN
        while not (self.folder / "state" / "client.json").exists():
            if engine.poll() is not None or time.monotonic() > deadline:
                raise SystemExit((self.folder / "up.log").read_text() or "Penstock did not start")
            time.sleep(0.02)
        return engine

    def _three_pushes(self) -> list[int]:
        _say("$ penstock apps add shop")
        added = json.loads(_output(_penstock(self.folder, "apps", "add", "shop", "--json")))
        source = resources.files(__name__) / "sample"
        with resources.as_file(source) as sample:
            shutil.copytree(sample, self.app, ignore=shutil.ignore_patterns("__pycache__"))
        self._git("init", "--quiet", "--initial-branch=main")
        self._git("remote", "add", "penstock", added["remote"])
        _say(f"$ git remote add penstock {_without_token(added['remote'])}")
        return [
            self._push("The shop opens"),
            self._push("Version 2", _change),
            self._push("Version 3", _break),
        ]

    def _push(self, message: str, edit: Any = None) -> int:
        if edit is not None:
            edit(self.app)
        self._git("add", "--all")
        self._git("commit", "--quiet", "--message", message)
        _tell(f"{message}:")
        _say("$ git push penstock main")
        code = subprocess.call([*GIT, "push", "penstock", "main"], cwd=self.app, stderr=subprocess.STDOUT)
        _say(f"(exit code {code})")
        return code

    def _git(self, *arguments: str) -> None:
        subprocess.run([*GIT, *arguments], cwd=self.app, check=True)

    # -- checking

    def _check(self, codes: list[int]) -> list[str]:
        """What is not as it must be, in words."""
        urls = self._urls()
        wrong = []
        if codes != [0, 0, 1]:
            wrong.append(f"the pushes ended with {codes} instead of [0, 0, 1]")
        runs = json.loads(_output(_penstock(self.folder, "runs", "--json")))
        if (found := [run["status"] for run in runs]) != ["failed", "succeeded", "succeeded"]:
            wrong.append(f"the runs are recorded as {found}")
        index = _html_at_head(self.app, "HEAD~1")
        for url in (urls["app"], urls["port"], *urls["edges"]):
            if _get(url, "/") != index:
                wrong.append(f"{url} does not serve the page of version 2")
            if json.loads(_get(url, "/api/version") or b"{}") != {"version": "2"}:
                wrong.append(f"{url} is not answered by version 2")
        return wrong

    def _urls(self) -> dict[str, Any]:
        apps: dict[str, Any] = json.loads(_output(_penstock(self.folder, "apps", "--json")))[0]["urls"]
        return apps

    def _show_urls(self) -> None:
        urls = self._urls()
        client = json.loads((self.folder / "state" / "client.json").read_text())
        link = _output(_penstock(self.folder, "dashboard")).strip()  # works once: none where nobody looks
        _say("")
        edges = [("edge", url) for url in urls["edges"]]
        shown = [
            ("app", urls["app"]),
            ("app, by port", urls["port"]),
            *edges,
            ("dashboard", client["url"] + "/" if self.once else link),
        ]
        for name, url in shown:
            _say(f"  {name:<14}{url}")
        _say("")


def _without_token(remote: str) -> str:
    where = urlsplit(remote)
    return where._replace(netloc=f"{where.username}:…@{where.hostname}:{where.port}").geturl()


def _change(app: Path) -> None:
    """Version 2: the service, a heading, and one picture."""
    _replace(app / "shop" / "__init__.py", 'VERSION = "1"', 'VERSION = "2"')
    _replace(app / "public" / "index.html", "Good things, plainly made", "Good things, made to last")
    _replace(app / "public" / "img" / "mug-small.svg", "82%", "90%")


def _break(app: Path) -> None:
    """Version 3: never healthy, and says why."""
    service = app / "shop" / "__init__.py"
    _replace(service, 'VERSION = "2"', 'VERSION = "3"')
    _replace(service, 'return 200, {"healthy": True}', 'return 500, {"error": "the price list is missing"}')
    _replace(app / "penstock.yaml", "within: 5s", "within: 2s")


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, f"{file} does not hold {old!r}"
    file.write_text(text.replace(old, new))


def _html_at_head(app: Path, commit: str) -> bytes:
    return _output([*GIT, "-C", str(app), "show", f"{commit}:public/index.html"])


def _get(url: str, path: str) -> bytes | None:
    """The body, asked of this machine whatever the host name resolves to; None unless 200."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", where.port, timeout=10)
    try:
        connection.request("GET", path, headers={"Host": where.netloc})
        answer = connection.getresponse()
        return answer.read() if answer.status == 200 else None
    finally:
        connection.close()


def _penstock(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "penstock_pipeline", *arguments, "--state", str(folder / "state")]


def _output(command: list[str]) -> bytes:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def _down(folder: Path) -> None:
    if (folder / "state").exists():
        subprocess.run(_penstock(folder, "down"), check=False, stdout=subprocess.DEVNULL)


def _tell(*words: object) -> None:
    _say(f"\n==> {' '.join(map(str, words))}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the demo talks to the person at the terminal
