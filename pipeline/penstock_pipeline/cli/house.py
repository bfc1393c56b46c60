"""The whole Penstock: started, stopped, shown, let in."""

from __future__ import annotations

import getpass
import re
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import __version__, tell
from ..errors import Invalid
from . import screen
from .apps import live_label, moving_label
from .client import Client, state_folder
from .options import AsJson, State

if TYPE_CHECKING:
    from ..doctor import Finding
    from ..settings import Settings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

Folder = Annotated[Path | None, typer.Option("--state", metavar="DIR", help="Folder that holds everything.")]
Port = Annotated[int | None, typer.Option(metavar="PORT", help="Git, webhooks, API and dashboard. [7070]")]
RouterPort = Annotated[int | None, typer.Option(metavar="PORT", help="Apps, by host name. [7080]")]
EdgePorts = Annotated[
    list[int] | None,
    typer.Option("--edge-port", metavar="PORT", help="A caching edge; repeat for more. [7081 and 7082]"),
]
AppPorts = Annotated[int | None, typer.Option(metavar="PORT", help="First of the apps' own ports. [7100]")]
Address = Annotated[str | None, typer.Option(metavar="IP", help="Where to listen. [127.0.0.1]")]
Domain = Annotated[str | None, typer.Option(metavar="NAME", help="Apps are APP.NAME. [localhost]")]


def up(
    state: Folder = None,
    port: Port = None,
    router_port: RouterPort = None,
    edge_port: EdgePorts = None,
    app_ports: AppPorts = None,
    address: Address = None,
    domain: Domain = None,
    as_json: AsJson = False,
) -> None:
    """Start Penstock and stay until Ctrl-C. Apps, router and edges go on serving.

    Every setting can also be given as PENSTOCK_<NAME>; a port 0 means a free one.

    \b
    Example:
      penstock up
      penstock up --state /srv/penstock --port 8070
    """
    given: dict[str, Any] = {"state": state, "port": port, "router_port": router_port}
    given |= {"edge_ports": edge_port, "app_ports": app_ports, "address": address, "domain": domain}
    settings = _settings({name: value for name, value in given.items() if value is not None})
    import asyncio

    from ..app import serve

    # Not uvloop: it forks the whole engine for each subprocess, 10 ms where asyncio's own loop takes 2.
    asyncio.run(serve(settings, ready=partial(_tell_ready, as_json=as_json)))


def down(state: State = None) -> None:
    """Stop everything: engine, apps, router and edges.

    \b
    Example:
      penstock down
    """
    folder = state_folder(state)
    if not (folder / "engine.lock").exists():  # and nothing is left behind in a folder that is no state
        screen.say(f"nothing runs over {folder}")
        return
    import asyncio

    from ..app import stop

    asyncio.run(stop(folder))
    screen.say("everything is stopped; penstock up starts it again")


def demo(
    once: Annotated[bool, typer.Option("--once", help="Check everything, clean up and end.")] = False,
    state: Folder = None,
) -> None:
    """Start Penstock with a sample app and push it three times.

    DIR must not hold anything: the demo makes it and removes it.

    \b
    Example:
      penstock demo
    """
    if state is not None and state.exists() and any(state.iterdir()):
        raise Invalid(f"{state} is not empty; give the demo a folder of its own, or leave --state out")
    from ..demo import main

    raise typer.Exit(main(once=once, folder=state or Path(mkdtemp(prefix="penstock-demo-"))))


def status(state: State = None, as_json: AsJson = False) -> None:
    """Show what is live, what runs and what moves.

    \b
    Example:
      penstock status
    """
    client = Client.find(state)
    now = client.get("/status")
    if as_json:
        screen.document(now | {"url": client.url})
        return
    screen.say(f"Penstock {now['version']} at {client.url}, state in {now['state']}")
    if now["apps"]:
        screen.say()
        screen.table(("APP", "LIVE", "PROCESSES", "MOVING"), [_row(app) for app in now["apps"]])
        screen.waiting(now["moving"])


def dashboard(state: State = None, as_json: AsJson = False) -> None:
    """Print a link to the dashboard that signs you in. It works once.

    \b
    Example:
      penstock dashboard
    """
    client = Client.find(state)
    made = client.post("/invitations", {})
    url = client.url + made["path"]
    if as_json:
        screen.document({"url": url, "seconds": made["seconds"]})
    else:
        screen.say(url)


def doctor(state: State = None, as_json: AsJson = False) -> None:
    """Tell what this machine and this Penstock lack, and what helps.

    Works when nothing runs, and changes nothing. In a bare repository with the hook
    of Penstock, its spool is looked at too. Exit code 3 where there is a problem.

    \b
    Example:
      penstock doctor
      penstock doctor --json
    """
    from .. import doctor as medicine

    folder = state_folder(state)
    patient = medicine.patient(_settings({"state": folder}), lambda: Client.find(folder).get("/status"))
    found = []
    for finding in medicine.examine(patient):
        found.append(finding)
        if not as_json:
            _tell_finding(finding)
    if as_json:
        screen.document([asdict(finding) for finding in found])
    raise typer.Exit(3 if any(finding.level is medicine.Level.PROBLEM for finding in found) else 0)


def token(
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Who runs are told to be by. [you]", show_default=False)
    ] = None,
    app: Annotated[str | None, typer.Option(metavar="APP", help="For pushes to this app alone.")] = None,
    manage: Annotated[bool, typer.Option("--manage", help="For everything, not just for pushes.")] = False,
    expires: Annotated[str, typer.Option(metavar="TIME", help="Such as 12h, 30d.")] = "365d",
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make a token to push or to manage with.

    A git remote takes it as the password, PENSTOCK_TOKEN the one that manages.

    \b
    Example:
      penstock token --app shop --expires 30d
      penstock token --manage
    """
    wanted = {
        "name": name or getpass.getuser(),
        "scope": "manage" if manage else "push",
        "app": app,
        "seconds": _seconds(expires),
    }
    made = Client.find(state).post("/tokens", wanted)
    if as_json:
        screen.document(made)
    else:
        screen.say(made["token"])


def version(as_json: AsJson = False) -> None:
    """Print the version.

    \b
    Example:
      penstock version
    """
    if as_json:
        screen.document({"version": __version__})
    else:
        screen.say(f"penstock {__version__}")


def _tell_finding(finding: Finding) -> None:
    style = {"warning": "yellow", "problem": "red"}.get(finding.level)
    screen.say(f"{finding.level:<8} {finding.what:<11} {finding.says}", style=style)
    if finding.do:
        screen.say(f"{'':<20} {finding.do}", style=style)


def _settings(given: dict[str, Any]) -> Settings:
    """The settings in force. Raises `Invalid`, one line for each that is wrong."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from ..settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        raise Invalid("\n".join(_complaint(dict(one)) for one in error.errors())) from error
    except SettingsError as error:
        raise Invalid(f"{error}; lists are written like [7081,7082]") from error


def _complaint(error: dict[str, Any]) -> str:
    name = str(error["loc"][0])
    lists = {"tuple_type": "lists are written like [7081,7082]"}
    why = lists.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    given = str(error["input"]) if isinstance(error["input"], Path) else error["input"]
    return f"{name} (PENSTOCK_{name.upper()}) is {given!r}: {why}"


def _tell_ready(settings: Settings, invitation: str, *, as_json: bool) -> None:
    host = f"APP.{settings.domain}"
    url = f"http://{settings.address}:{settings.port}/"
    edges = [f"http://{host}:{port}/" for port in settings.edge_ports]
    where: dict[str, object] = {
        "dashboard": url,
        "apps": f"http://{host}:{settings.router_port}/",
        "edges": edges,
    }
    if as_json:
        screen.document(where | {"state": str(settings.state), "version": __version__})
        return
    screen.say(f"Penstock {__version__} is up.", style="bold")
    if sys.stdout.isatty():  # what else takes the output may keep it: a log is no place for a way in
        where["dashboard"] = f"{url}sign-in#{invitation}"
    screen.facts(where | {"edges": "  ".join(edges), "state": str(settings.state)})
    screen.say()
    screen.say("Make an app:      penstock apps add shop")
    screen.say("See what happens: penstock dashboard")
    screen.say("Stop the engine:  Ctrl-C     and all apps with it: penstock down")


def _row(app: dict[str, Any]) -> tuple[object, ...]:
    return app["name"], live_label(app), _processes_label(app["processes"]), moving_label(app)


def _processes_label(processes: list[dict[str, Any]]) -> str:
    """Such as `web pid 4711, worker down (3 restarts)`; of what is not live, only how much there is."""
    said = [_process_label(one) for one in processes if one["live"]]
    others = len(processes) - len(said)
    return ", ".join([*said, f"{others} not live"] if others else said)


def _process_label(process: dict[str, Any]) -> str:
    state = "down" if process["pid"] is None else f"pid {process['pid']}"
    restarts = f" ({tell.count(process['restarts'], 'restart')})" if process["restarts"] else ""
    return f"{process['process']} {state}{restarts}"


def _seconds(text: str) -> int:
    if (match := re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text)) is None:
        raise Invalid(f"{text!r} is not a time; it looks like 12h or 30d")
    return int(match[1]) * _UNITS[match[2]]
