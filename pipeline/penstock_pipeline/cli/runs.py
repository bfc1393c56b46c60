"""Runs: listed, shown, followed, let through, ended, done again, undone."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any

import typer

from ..errors import Invalid, NotFound
from ..model import StageName
from . import completion, screen
from .client import Client
from .following import Detach, await_outcome
from .following import follow as follow_run
from .options import AppName, AsJson, RunNumber, State


def runs(
    app: Annotated[
        str | None, typer.Option(metavar="APP", autocompletion=completion.apps, help="Of this app alone.")
    ] = None,
    number: Annotated[int, typer.Option("-n", "--number", metavar="N", min=1, max=500)] = 20,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first.

    \b
    Example:
      penstock runs --app shop -n 5
    """
    found = Client.find(state).get("/runs", app=app, limit=number)
    if as_json:
        screen.document(found)
    elif not found:
        screen.say("No runs yet; a push makes one.")
    else:
        headers = ("RUN", "APP", "STATUS", "RELEASE", "COMMIT", "BY", "TOOK", "BEGAN")
        screen.table(headers, [_row(run) for run in found])
        screen.waiting(found)


def show(run: RunNumber, state: State = None, as_json: AsJson = False) -> None:
    """Show a run: its stages, and why it is red.

    \b
    Example:
      penstock show 118
    """
    whole = Client.find(state).get(f"/runs/{run}")
    if as_json:
        screen.document(whole)
        return
    _show_head(whole["run"])
    if whole["stages"]:
        screen.say()
        rows = [_stage_row(stage) for stage in whole["stages"]]
        screen.table(("STAGE", "STATUS", "TOOK", "SAYS"), rows)
    _show_error(whole)
    screen.waiting([whole["run"]])


def logs(
    run: Annotated[int | None, typer.Argument(metavar="RUN", autocompletion=completion.runs)] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Stay until the run has ended.")] = False,
    app: Annotated[
        str | None,
        typer.Option(metavar="APP", autocompletion=completion.apps, help="The newest run of this app."),
    ] = None,
    stage: Annotated[
        StageName | None, typer.Option(metavar="STAGE", help="All that this stage printed.")
    ] = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Print what a run said, as at the push. Without RUN: the newest one.

    With -f, --json prints one event a line, and the exit code is the run's outcome;
    a run that waits for approval is followed no further, exit code 0.

    \b
    Example:
      penstock logs -f
      penstock logs 118 --stage test
    """
    if run is not None and app is not None:
        raise typer.BadParameter("give a run or --app, not both")
    if stage is not None and follow:
        raise typer.BadParameter("--stage prints what is there; it cannot be followed")
    client = Client.find(state)
    run = _newest(client, app) if run is None else run
    if stage is not None:
        _print_log(client, run, stage, as_json)
    elif follow:
        raise typer.Exit(follow_run(client, run, as_json))
    elif as_json:
        screen.document(client.get(f"/runs/{run}/events"))
    else:
        for line in client.lines(f"/runs/{run}/follow", wait="false"):
            screen.say(line.decode("utf-8", "replace"))


def cancel(run: RunNumber, state: State = None, as_json: AsJson = False) -> None:
    """End a run and everything it started.

    \b
    Example:
      penstock cancel 118
    """
    ended = Client.find(state).post(f"/runs/{run}/cancel", {})
    if as_json:
        screen.document(ended)
    else:
        screen.say(f"run {run} is {ended['status']}")


def approve(run: RunNumber, detach: Detach = False, state: State = None, as_json: AsJson = False) -> None:
    """Let a run through that waits for approval.

    Whoever may manage may approve; who did, and when, is recorded. The run is
    followed to its end; the exit code is the outcome.

    \b
    Example:
      penstock approve 118
    """
    client = Client.find(state)
    known = client.get(f"/runs/{run}/events")
    approved = client.post(f"/runs/{run}/approve", {})
    await_outcome(client, approved, detach=detach, as_json=as_json, after=known[-1]["id"])


def retry(
    run: RunNumber,
    stage: Annotated[
        StageName | None, typer.Option("--from", metavar="STAGE", help="Begin here. [the stage that was red]")
    ] = None,
    detach: Detach = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Run a red push, or a change of variables, again.

    That is a run of its own. What the stages before did is taken over as it was
    recorded. The exit code is the outcome.

    \b
    Example:
      penstock retry 118
      penstock retry 118 --from upload
    """
    client = Client.find(state)
    retried = client.post(f"/runs/{run}/retry", {"stage": stage})
    await_outcome(client, retried, detach=detach, as_json=as_json)


def redeploy(app: AppName, detach: Detach = False, state: State = None, as_json: AsJson = False) -> None:
    """Build and release the commit that is live once more.

    For after a change outside of the repository, such as a base image. The exit
    code is the outcome.

    \b
    Example:
      penstock redeploy shop
    """
    client = Client.find(state)
    await_outcome(client, client.post(f"/apps/{app}/redeploy", {}), detach=detach, as_json=as_json)


def rollback(
    app: AppName,
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", autocompletion=completion.versions)
    ] = None,
    detach: Detach = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Go back to the release that served before, or to VERSION.

    VERSION looks like v41. The app stays on it until the next push, or until
    penstock unpin. The exit code is the outcome.

    \b
    Example:
      penstock rollback shop
      penstock rollback shop v41
    """
    client = Client.find(state)
    run = client.post(f"/apps/{app}/rollback", {"version": _version(version)})
    await_outcome(client, run, detach=detach, as_json=as_json)


def unpin(app: AppName, detach: Detach = False, state: State = None, as_json: AsJson = False) -> None:
    """End a rollback: go forward to what was pushed last.

    The exit code is the outcome.

    \b
    Example:
      penstock unpin shop
    """
    client = Client.find(state)
    await_outcome(client, client.post(f"/apps/{app}/unpin", {}), detach=detach, as_json=as_json)


def refresh(app: AppName, detach: Detach = False, state: State = None, as_json: AsJson = False) -> None:
    """Purge what edges owe, and ask each of them again.

    For after a refresh that was red: nothing is built or started anew. The
    exit code is the outcome.

    \b
    Example:
      penstock refresh shop
    """
    client = Client.find(state)
    await_outcome(client, client.post(f"/apps/{app}/refresh", {}), detach=detach, as_json=as_json)


# -- reading


def _newest(client: Client, app: str | None) -> int:
    newest = client.get("/runs", app=app, limit=1)
    if not newest:
        raise NotFound(f"{app or 'Penstock'} has no run yet; a push makes one")
    return int(newest[0]["id"])


def _print_log(client: Client, run: int, stage: str, as_json: bool) -> None:
    """To a pipe as it is; a terminal is spared the control characters of programs."""
    lines = client.lines(f"/runs/{run}/logs/{stage}")
    if as_json:
        screen.document({"run": run, "stage": stage, "log": b"".join(lines).decode("utf-8", "replace")})
        return
    for line in lines:
        if sys.stdout.isatty():
            screen.say(line.decode("utf-8", "replace"))
        else:
            screen.raw(line)


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if (match := re.fullmatch(r"v?([1-9][0-9]{0,8})", text)) is None:
        raise Invalid(f"{text!r} is not a release; it looks like v41")
    return int(match[1])


# -- how a run looks


def _row(run: dict[str, Any]) -> tuple[object, ...]:
    return (
        run["id"],
        run["app"],
        run["status"],
        run["release"],
        run["commit"][:7],
        run["actor"],
        screen.took(run["started_at"], run["ended_at"]),
        screen.ago(run["created_at"]),
    )


def _show_head(run: dict[str, Any]) -> None:
    screen.say(f"run {run['id']} of {run['app']}: {run['status']}", style="bold")
    screen.facts(
        {
            "what": f"{run['kind']} of {run['commit'][:12]} by {run['actor']} ({run['source']})",
            "retry of": run["retry_of"] and f"run {run['retry_of']}",
            "release": run["release"],
            "began": screen.ago(run["created_at"]),
            "took": screen.took(run["started_at"], run["ended_at"]),
            "superseded by": run["superseded_by"] and f"run {run['superseded_by']}",
            "trace": run["trace_id"],
        }
    )


def _stage_row(stage: dict[str, Any]) -> tuple[object, ...]:
    status = stage["status"]
    if stage["attempt"] > 1:
        status = f"{status} ({stage['attempt']} attempts)"
    return stage["stage"], status, screen.took(stage["started_at"], stage["ended_at"]), stage["says"]


def _show_error(whole: dict[str, Any]) -> None:
    if whole["run"]["error"]:
        screen.say()
        for line in [*whole["run"]["error"].splitlines(), *(f"  {line}" for line in whole["tail"])]:
            screen.say(f" !     {line}")
