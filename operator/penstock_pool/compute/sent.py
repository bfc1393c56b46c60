"""Calls and their outcomes as bytes, for workers that share no objects with the pool."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

from .errors import TaskNotSendable
from .task import Call, here


def pack(call: Call) -> bytes:
    """Raises `TaskNotSendable`."""
    try:
        return pickle.dumps(tuple(call), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        raise TaskNotSendable(
            f"{call} cannot be sent to its worker: {error}. The function has to be importable by its name "
            "(no lambda, nothing defined in a function), its arguments have to be what pickle takes"
        ) from error


def perform(sent: bytes) -> bytes:
    """What the worker does with a packed call; never raises."""
    try:
        outcome = True, here(_read(sent))
    except BaseException as error:  # noqa: BLE001 (it goes to whom it concerns; the worker lives on)
        error.add_note("In the worker:\n" + "".join(traceback.format_exception(error)).rstrip())
        return _pack_error(error)
    try:
        return pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # noqa: BLE001 (anything can go wrong in a class's own way to pickle)
        kind = type(outcome[1]).__qualname__
        return _pack_error(TaskNotSendable(f"its result, a {kind}, cannot be sent back: {error}"))


def unpack(answer: bytes) -> Any:
    """The result; raises the exception, if that is the outcome, or `TaskNotSendable`."""
    try:
        good, value = pickle.loads(answer)  # noqa: S301 (from a worker of our own)
    except Exception as error:
        raise TaskNotSendable(f"its outcome cannot be read here: {error}") from error
    if good:
        return value
    raise value


def _read(sent: bytes) -> Call:
    try:
        return Call(*pickle.loads(sent))  # noqa: S301 (from the pool that started this worker)
    except Exception as error:
        raise TaskNotSendable(
            f"the worker cannot read its task: {error}. What is sent has to be importable there too"
        ) from error


def _pack_error(error: BaseException) -> bytes:
    """Exceptions that pickle takes, but cannot make again, are common: told from here, as text."""
    try:
        sent = pickle.dumps((False, error), pickle.HIGHEST_PROTOCOL)
        pickle.loads(sent)  # noqa: S301 (just written)
    except Exception as reason:  # noqa: BLE001 (see `perform`)
        text = "".join(traceback.format_exception(error)).rstrip()
        told = TaskNotSendable(
            f"its {type(error).__qualname__} cannot be sent back ({reason}). It was:\n{text}"
        )
        return pickle.dumps((False, told), pickle.HIGHEST_PROTOCOL)
    return sent
