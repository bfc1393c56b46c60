"""An app's variables: configuration that is shown, and secrets that never are."""

from __future__ import annotations

import getpass
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import Invalid
from . import completion, dotenv, groups, screen
from .client import Client
from .following import Detach, await_outcome
from .options import AppName, AsJson, State

config = groups.group("config", "What an app finds in its environment: list, set, unset.")
secrets = groups.group("secrets", "What an app finds there and nobody is shown: list, set, unset.")

LARGEST = 256 * 1024
"""Bytes a file of variables may have: what the API takes at once."""

Names = Annotated[
    list[str], typer.Argument(metavar="NAME", show_default=False, autocompletion=completion.variables)
]


@config.command(groups.LIST)
def show_config(app: AppName, state: State = None, as_json: AsJson = False) -> None:
    """List the variables of an app. Secrets are there, their values are not.

    \b
    Example:
      penstock config shop
    """
    found = Client.find(state).get(f"/apps/{app}/variables")
    if as_json:
        screen.document(found)
    elif not found:
        screen.say(f"{app} has no variables; set one: penstock config set {app} NAME=VALUE")
    else:
        screen.table(("NAME", "VALUE"), [(name, _shown(variable)) for name, variable in found.items()])


@config.command("set")
def set_config(
    app: AppName,
    given: Annotated[list[str] | None, typer.Argument(metavar="NAME=VALUE", show_default=False)] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Lines of NAME=VALUE, such as a .env.")
    ] = None,
    detach: Detach = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Set variables. The app is released anew with them; nothing is built.

    \b
    Example:
      penstock config set shop LOG_LEVEL=debug CURRENCY=EUR
      penstock config set shop --file .env
    """
    if not given and file is None:
        raise typer.BadParameter("give NAME=VALUE, or --file")
    values = {} if file is None else dotenv.read(_text_of(file, partial(_whole, file)), file=str(file))
    values |= dict(map(pair, given or ()))
    client = Client.find(state)
    _refuse_secrets(client, app, values)
    changes = {name: {"value": value, "secret": False} for name, value in values.items()}
    _change(client, app, changes, detach=detach, as_json=as_json)


@config.command("unset")
@secrets.command("unset")
def unset(
    app: AppName, names: Names, detach: Detach = False, state: State = None, as_json: AsJson = False
) -> None:
    """Remove variables. The app is released anew without them.

    \b
    Example:
      penstock config unset shop LOG_LEVEL
      penstock secrets unset shop API_KEY
    """
    changes = dict.fromkeys(names)
    _change(Client.find(state), app, changes, detach=detach, as_json=as_json)


@secrets.command(groups.LIST)
def show_secrets(app: AppName, state: State = None, as_json: AsJson = False) -> None:
    """List the names of an app's secrets.

    \b
    Example:
      penstock secrets shop
    """
    known = Client.find(state).get(f"/apps/{app}/variables")
    names = [name for name, variable in known.items() if variable["secret"]]
    if as_json:
        screen.document(names)
    elif not names:
        screen.say(f"{app} has no secrets; set one: penstock secrets set {app} NAME")
    for name in () if as_json else names:
        screen.say(name)


@secrets.command("set")
def set_secret(
    app: AppName,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Take what this file holds, such as a key.")
    ] = None,
    detach: Detach = False,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Set a secret: asked for without echo, or read from a pipe or file.

    One newline at the end of what is piped or in a file is left out. A secret is
    kept encrypted, never shown again, and masked wherever the app prints it.

    \b
    Example:
      penstock secrets set shop API_KEY
      penstock secrets set shop TLS_KEY --file key.pem
      pass show shop/api | penstock secrets set shop API_KEY
    """
    name, value = _secret(name, file)
    changes = {name: {"value": value, "secret": True}}
    _change(Client.find(state), app, changes, detach=detach, as_json=as_json)


# -- what is set


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Invalid(f"{text!r} has no value; write NAME=VALUE, or NAME= for an empty one")
    return name, _text_of(f"the value of {name}", lambda: os.fsencode(value))


def _secret(given: str, file: Path | None) -> tuple[str, str]:
    """Name and value, from where the value is least seen."""
    if "=" in given and file is not None:
        raise typer.BadParameter("give a value or --file, not both")
    if "=" in given:
        name, value = pair(given)
        screen.problem(f"the value of {name} stays in your shell's history; leave it out to be asked for it")
        return name, value
    if file is not None:
        return given, _text_of(file, partial(_whole, file)).removesuffix("\n")
    if not sys.stdin.isatty():
        return given, _text_of("standard input", sys.stdin.buffer.read).removesuffix("\n")
    return given, getpass.getpass(f"{given}: ")


def _whole(file: Path) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Invalid(f"{file} is larger than {LARGEST // 1024} KiB; an app's variables are not")
    return content


def _text_of(source: object, read: Callable[[], bytes]) -> str:
    try:
        return read().decode()
    except OSError as error:
        raise Invalid(f"{source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{source} is not text in UTF-8; for other bytes, set their base64") from error


def _refuse_secrets(client: Client, app: str, values: Mapping[str, str]) -> None:
    """What is a secret does not become public by a slip."""
    known = client.get(f"/apps/{app}/variables")
    for name in values:
        if name in known and known[name]["secret"]:
            raise Invalid(
                f"{name} is a secret of {app}; change it with `penstock secrets set {app} {name}`,\n"
                f"or first unset it, if it is to be shown: penstock secrets unset {app} {name}"
            )


def _change(client: Client, app: str, changes: Mapping[str, object], *, detach: bool, as_json: bool) -> None:
    answer = client.post(f"/apps/{app}/variables", {"variables": changes})
    if answer["run"] is not None:
        await_outcome(client, answer["run"], detach=detach, as_json=as_json)
    elif as_json:
        screen.document(answer)
    elif client.get(f"/apps/{app}")["live"] is None:
        screen.say("kept for the first push")
    else:
        screen.say("nothing changed")


def _shown(variable: dict[str, Any]) -> str:
    """A value as it is; one that a line cannot show is quoted as in JSON."""
    if variable["secret"]:
        return "(secret)"
    value = str(variable["value"])
    return value if value.isprintable() and value.strip() == value != "" else json.dumps(value)
