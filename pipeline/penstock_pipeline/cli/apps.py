"""Apps and their releases."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from .. import signatures
from ..receiver.forges import FORGES
from . import groups, screen
from .client import Client
from .options import AppName, AsJson, State

group = groups.group("apps", "The apps: list them, or make one.")


@group.command(groups.LIST)
def show(state: State = None, as_json: AsJson = False) -> None:
    """List the apps. This is meant where no command is given.

    \b
    Example:
      penstock apps
    """
    found = Client.find(state).get("/apps")
    if as_json:
        screen.document(found)
    elif not found:
        screen.say("No apps yet. Make one: penstock apps add shop")
    else:
        screen.table(("APP", "LIVE", "COMMIT", "MOVING", "URL"), [_row(app) for app in found])


def _known(forge: str | None) -> str | None:
    if forge is not None and forge not in FORGES:
        raise typer.BadParameter(f"{forge!r} is none of {', '.join(FORGES)}")
    return forge


@group.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    branch: Annotated[str, typer.Option(metavar="BRANCH", help="The branch that goes live.")] = "main",
    repository: Annotated[
        str | None, typer.Option(metavar="URL", help="Where webhooks fetch from, such as a GitHub clone URL.")
    ] = None,
    forge: Annotated[
        str | None,
        typer.Option(
            metavar="FORGE", callback=_known, help=f"Whose webhook to explain: {', '.join(FORGES)}. [github]"
        ),
    ] = None,
    webhook_secret: Annotated[
        str | None, typer.Option(metavar="SECRET", help="Secret of the webhook; made up when left out.")
    ] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Make an app and print the remote to push to. The token in it is shown only once.

    \b
    Example:
      penstock apps add shop
      penstock apps add shop --repository https://github.com/you/shop.git
    """
    if repository is None and (forge or webhook_secret):
        raise typer.BadParameter("a webhook needs to know where to fetch from: --repository URL")
    client = Client.find(state)
    wanted = {"name": name, "branch": branch, "repository": repository, "webhook_secret": webhook_secret}
    made = client.post("/apps", {key: value for key, value in wanted.items() if value is not None})
    made["remote"] = _remote(client.url, made)
    if as_json:
        screen.document(made)
    else:
        _tell_how_to_push(made)
        if made["webhook"]:
            _tell_of_webhook(made, forge or "github")


def releases(app: AppName, state: State = None, as_json: AsJson = False) -> None:
    """List an app's releases, newest first.

    \b
    Example:
      penstock releases shop
    """
    found = Client.find(state).get(f"/apps/{app}/releases")
    if as_json:
        screen.document(found)
    elif not found:
        screen.say(f"{app} has no release yet; a push makes one.")
    else:
        screen.table(
            ("RELEASE", "LIVE", "COMMIT", "RUN", "MADE"), [_release_row(release) for release in found]
        )


def live_label(app: dict[str, Any]) -> str | None:
    """What is live, and whether it stays until the next push."""
    if app["live"] is None:
        return None
    return f"{app['live']['label']}{' (pinned)' if app['pinned'] else ''}"


def moving_label(app: dict[str, Any]) -> str:
    """What is on its way, such as `run 119 test, run 120 queued`, or stands aside: `run 118 awaiting`."""
    return ", ".join(f"run {run['id']} {_whereabouts(run)}" for run in app["moving"])


def _whereabouts(run: dict[str, Any]) -> str:
    return str(run["stage"] if run["status"] == "running" and run["stage"] else run["status"])


def _row(app: dict[str, Any]) -> tuple[object, ...]:
    commit = app["live"] and app["live"]["commit"][:7]
    return app["name"], live_label(app), commit, moving_label(app), app["urls"]["app"]


def _release_row(release: dict[str, Any]) -> tuple[object, ...]:
    live = "live" if release["live"] else None
    return release["label"], live, release["commit"][:7], release["run"], screen.ago(release["created_at"])


def _remote(url: str, made: dict[str, Any]) -> str:
    """Where git pushes to, with the token that lets it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://penstock:{made['token']}@{parts.netloc}{parts.path}{made['remote']}"


def _tell_how_to_push(made: dict[str, Any]) -> None:
    screen.say(f"{made['app']['name']} will be at {made['app']['urls']['app']}. In its repository:")
    screen.say()
    screen.say(f"git remote add penstock {made['remote']}")
    screen.say(f"git push penstock {made['app']['branch']}")


def _tell_of_webhook(made: dict[str, Any], name: str) -> None:
    forge, secret = FORGES[name], made["webhook_secret"]
    screen.say()
    screen.say(f"Or let {forge.title} tell of pushes. {forge.where}.")
    facts = {"URL": made["app"]["urls"]["webhooks"][name], "secret": secret}
    screen.facts(facts | ({"signing token": signatures.serialized(secret)} if forge.standard else {}))
