"""The command line: `penstock-data`. Its options are the settings."""

from __future__ import annotations

import argparse
import sys
import typing
from pathlib import Path
from typing import Any, NoReturn

from penstock_data.errors import InvalidSettings, Missing
from penstock_data.settings import Settings, Source, config_file

DAY = 86400

_EPILOG = """\
exit codes: 0 ended as asked; 2 wrong usage or settings; 3 a part that it needs is not there

examples:
  penstock-data --demo
  penstock-data --url mysql://app:secret@db/shop --max 20
  penstock-data token --subject ann --scope data:read
"""


def main(arguments: list[str] | None = None) -> None:
    """Ends the process by SystemExit when something is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["token"]:
            _token(given[1:])
        else:
            _serve(given)
    except InvalidSettings as error:
        _end(2, str(error))
    except Missing as error:
        _end(3, str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _serve(given: list[str]) -> None:
    parser = _parser("penstock-data", "MySQL over HTTP, over one pool.", Settings.model_fields)
    parser.add_argument(
        "--demo", action="store_true", help="serve a throw-away MariaDB, and say how to ask it"
    )
    options = vars(parser.parse_args(given))
    file, demo = options.pop("config", None), options.pop("demo", False)
    if demo:
        from penstock_data.demo import run

        run(options)
        return
    file = file or config_file()
    settings = Settings.load(options, file)
    from penstock_data.serving import serve  # what has to answer fast is heavy

    serve(settings, Source(file, options) if file and file.is_file() else None)


def _token(given: list[str]) -> None:
    fields = {
        name: Settings.model_fields[name] for name in ("name", "issuer", "audience", "key_file", "state")
    }
    parser = _parser("penstock-data token", "Prints a token that this service's key signs.", fields)
    parser.add_argument("--subject", required=True, help="`sub`: who it is for")
    parser.add_argument("--tenant", help="whose it is; without it, the subject's")
    parser.add_argument(
        "--scope",
        action="append",
        choices=("data:read", "data:write", "pool:admin"),
        help="may be given several times; without it, data:read",
    )
    parser.add_argument("--seconds", type=float, default=DAY, help=f"for which it is valid ({DAY})")
    options = vars(parser.parse_args(given))
    about = {name: options.pop(name) for name in ("subject", "tenant", "scope", "seconds")}
    if not 0 < about["seconds"] <= 10 * 365 * DAY:
        raise InvalidSettings("--seconds is to be above 0, and ten years at most")
    print(token_of(Settings.load(options, options.pop("config", None)), **about))  # noqa: T201


def token_of(
    settings: Settings, *, subject: str, tenant: str | None, scope: list[str] | None, seconds: float
) -> str:
    """A token that the service with these settings takes. Raises `InvalidSettings`."""
    from penstock_data.tokens import issue, key_in

    return issue(
        key_in(settings.signs_with),
        issuer=settings.issuer,
        audience=settings.serves,
        subject=subject,
        tenant=tenant,
        scopes=scope or ["data:read"],
        seconds=seconds,
    )


def _parser(program: str, what: str, fields: dict[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        program,
        description=what,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="YAML file of settings")
    for name, field in fields.items():
        _add_option(parser, name, field)
    return parser


def _add_option(parser: argparse.ArgumentParser, name: str, field: Any) -> None:
    option, told = (
        f"--{name.replace('_', '-')}",
        " ".join((field.description or "").split()).replace("%", "%%"),
    )
    if field.annotation is bool:
        parser.add_argument(option, action=argparse.BooleanOptionalAction, help=told)
    elif typing.get_origin(field.annotation) is tuple:
        parser.add_argument(option, action="append", metavar="…", help=f"{told} May be given several times.")
    else:
        default = "" if field.is_required() or field.default in (None, ...) else f" ({field.default})"
        parser.add_argument(option, metavar="…", help=told + ("" if field.default_factory else default))


def _end(code: int, why: str) -> NoReturn:
    print(f"penstock-data: {why}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
