"""Who is told of what happens: webhooks, and forges by commit statuses."""

from __future__ import annotations

import getpass
import sys
from typing import Annotated, Any

import typer

from .. import tell
from ..errors import Invalid
from . import groups, screen
from .client import Client
from .options import AsJson, State

Number = Annotated[int, typer.Argument(metavar="ID", help="As `penstock events` lists it.")]


events = groups.group("events", "Programs that are told what happens.")
statuses = groups.group("statuses", "Forges that are told how commits stand.")


@events.command(groups.LIST)
@statuses.command(groups.LIST)
def show(state: State = None, as_json: AsJson = False) -> None:
    """List who is told, how far behind they are and what was wrong last.

    \b
    Example:
      penstock events
      penstock statuses
    """
    found = Client.find(state).get("/subscriptions")
    if as_json:
        screen.document(found)
    elif not found:
        screen.say("Nobody is told yet. Tell a program: penstock events add URL")
    else:
        headers = ("ID", "KIND", "APP", "BEHIND", "DEAD", "URL", "LAST ERROR")
        screen.table(headers, [_row(one) for one in found])


@events.command("add")
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events are POSTed to.")],
    app: Annotated[str | None, typer.Option(metavar="APP", help="Events of this app alone.")] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Tell a program of every event from now on. The secret that signs them is shown only once.

    \b
    Example:
      penstock events add https://example.com/events --app shop
    """
    made = Client.find(state).post("/subscriptions", {"url": url, "app": app})
    if as_json:
        screen.document(made)
        return
    number = made["subscription"]["id"]
    screen.say(f"{url} is told of {app or 'every app'} from now on.")
    screen.facts({"secret": made["secret"], "try it": f"penstock events test {number}"})


@events.command("remove")
@statuses.command("remove")
def remove(number: Number, state: State = None, as_json: AsJson = False) -> None:
    """Tell somebody nothing more; what waits for them is forgotten.

    \b
    Example:
      penstock events remove 1
      penstock statuses remove 2
    """
    gone = Client.find(state).post(f"/subscriptions/{number}/remove", {})
    if as_json:
        screen.document(gone)
    else:
        screen.say(f"{gone['url']} is told nothing more")


@events.command("test")
@statuses.command("test")
def ping(number: Number, state: State = None, as_json: AsJson = False) -> None:
    """Send a ping now. A forge is asked for the repository instead.

    \b
    Example:
      penstock events test 1
      penstock statuses test 2
    """
    answer = Client.find(state).post(f"/subscriptions/{number}/test", {})
    if as_json:
        screen.document(answer)
    else:
        screen.say("it arrived")


@events.command("dead")
def dead(state: State = None, as_json: AsJson = False) -> None:
    """List what could not be delivered and was given up.

    \b
    Example:
      penstock events dead
    """
    found = Client.find(state).get("/subscriptions/dead")
    if as_json:
        screen.document(found)
    elif not found:
        screen.say("No dead letters.")
    else:
        headers = ("ID", "EVENT", "RUN", "KIND", "ATTEMPTS", "HAPPENED", "ERROR")
        screen.table(headers, [_letter_row(letter) for letter in found])


@events.command("retry")
def retry(
    number: Annotated[int | None, typer.Argument(metavar="ID", show_default=False)] = None,
    everybody: Annotated[bool, typer.Option("--all", help="The dead letters of everybody.")] = False,
    event: Annotated[
        int | None, typer.Option(metavar="EVENT", help="This one of the dead letters alone.")
    ] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Deliver dead letters after all, and tell those again who wanted nothing more.

    \b
    Example:
      penstock events retry 1
      penstock events retry --all
    """
    if (number is None) is not everybody or (everybody and event is not None):
        raise Invalid("name one subscription, such as `penstock events retry 1`, or give --all")
    client = Client.find(state)
    numbers = [one["id"] for one in client.get("/subscriptions")] if number is None else [number]
    retried = sum(client.post(f"/subscriptions/{one}/retry", {"event": event})["retried"] for one in numbers)
    if as_json:
        screen.document({"retried": retried})
    else:
        screen.say(f"{tell.count(retried, 'dead letter')} on the way again, and whatever comes")


@statuses.command("add")
def add_statuses(
    app: Annotated[str, typer.Argument(metavar="APP")],
    forge: Annotated[str, typer.Option(metavar="FORGE", help="github, gitlab, gitea or forgejo.")],
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The forge's API, such as https://HOST/api/v1."),
    ] = None,
    repository: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Whose statuses; the app's repository if left out."),
    ] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Tell a forge how the app's commits stand. Its token is asked for, or read from standard input.

    \b
    Example:
      penstock statuses add shop --forge github < token
    """
    wanted = {"kind": forge, "app": app, "url": url, "repository": repository, "token": _token()}
    added = Client.find(state).post("/subscriptions", wanted)["subscription"]
    if as_json:
        screen.document(added)
        return
    screen.say(f"{added['url']} is told how commits of {app} stand.")
    screen.facts({"try it": f"penstock events test {added['id']}"})


def _token() -> str:
    """Never an option: those show in the list of processes and in the shell's history."""
    if sys.stdin.isatty():
        return getpass.getpass("token: ")
    return sys.stdin.readline().strip()


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    behind = one["behind"] + one["waiting"]
    error = f"told nothing more: {one['disabled']}" if one["disabled"] else one["error"]
    dead = f"{one['dead']} ({one['dropped']} forgotten)" if one["dropped"] else one["dead"]
    return one["id"], one["kind"], one["app"] or "every", behind, dead, one["url"], error


def _letter_row(letter: dict[str, Any]) -> tuple[object, ...]:
    event = letter["event"]
    happened = screen.ago(event["at"])
    about = (letter["subscription"], event["id"], event["run_id"], event["kind"])
    return *about, letter["attempts"], happened, letter["error"]
