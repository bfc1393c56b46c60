"""What a run says to people: the lines at the push and in `penstock logs`. Pure: events in, lines out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .model import Event, StageName

# Colours, cursor moves and titles a program may print; at the pusher's terminal they could fake status lines.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

OUTPUT_LINES = 1000
"""Lines of one stage's output shown to those who follow; the log has the rest."""


def clean(text: str) -> str:
    """One line of a program, made harmless for a terminal: no escape sequences, no control characters, no
    halves of characters; of a line that was rewritten by carriage returns, what was left standing."""
    text = _ESCAPES.sub("", text.rstrip("\r\n"))
    return _CONTROLS.sub("", text.rsplit("\r", 1)[-1])


def duration(seconds: float) -> str:
    """`84ms`, `2.1s`, `3m 05s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 100:
        return f"{seconds:.1f}s"
    return f"{int(seconds) // 60}m {int(seconds) % 60:02}s"


def count(number: object, noun: str, nouns: str = "") -> str:
    """`1 commit`, `3 commits`; `nouns` where it takes more than an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {nouns or noun + 's'}"


def status(name: str, says: str) -> str:
    return f"-----> {name:<10} {clean(says)}".rstrip()


def problem(text: str) -> list[str]:
    return [f" !     {clean(line)}".rstrip() for line in text.splitlines()]


@dataclass(frozen=True, slots=True)
class Output:
    """Bytes that a stage printed."""

    stage: StageName
    data: bytes


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing was heard for a while; `seconds` since the stage began."""

    stage: StageName
    seconds: float


Heard = Event | Output | Silence
"""What can be heard of a run (`store.follow`)."""


class Narrator:
    """Turns what is heard of one run into lines, remembering half lines and how much was shown."""

    def __init__(self, run_id: int) -> None:
        self._run_id = run_id
        self._half: dict[StageName, bytes] = {}
        self._shown: dict[StageName, int] = {}
        self._hinted = False

    def lines(self, heard: Heard) -> list[str]:
        match heard:
            case Output(stage, data):
                return self.output(stage, data)
            case Silence(stage, seconds):
                return self.silence(stage, seconds)
            case Event():
                return self.event(heard)

    def event(self, event: Event) -> list[str]:
        """The lines of an event; what a stage left unfinished on its last line comes before its end."""
        told = _EVENTS.get(event.kind)
        lines = [] if told is None else list(told(self._run_id, event))
        began = event.kind == "stage.started"
        if event.stage is not None and not began and (half := self._half.pop(event.stage, b"")):
            return [*self._output(event.stage, [half]), *lines]
        return lines

    def output(self, stage: StageName, data: bytes) -> list[str]:
        """The whole lines of a piece of output, indented, so that no program can fake a status line."""
        *whole, half = (self._half.pop(stage, b"") + data).split(b"\n")
        self._half[stage] = half[-65536:]
        return self._output(stage, whole)

    def silence(self, stage: StageName, seconds: float) -> list[str]:
        lines = [status(stage.value.title(), f"… {duration(seconds)}")]
        if not self._hinted:
            self._hinted = True
            lines.append(f"       Ctrl-C detaches, the run goes on: penstock logs -f {self._run_id}")
        return lines

    def _output(self, stage: StageName, whole: list[bytes]) -> list[str]:
        shown = self._shown.get(stage, 0)
        self._shown[stage] = shown + len(whole)
        room = max(0, OUTPUT_LINES - shown)
        lines = [f"       {clean(line.decode('utf-8', 'replace'))}".rstrip() for line in whole[:room]]
        if room and len(whole) > room:
            lines.append(f"       … more output: penstock logs {self._run_id} --stage {stage.value}")
        return lines


def _accepted(run_id: int, event: Event) -> Iterator[str]:
    data = event.data
    if "does" in data:
        yield status("Accepted", f"{data['does']} as run {run_id}, by {data['pusher']}")
        return
    says = f"{str(data['commit'])[:7]} on {data['branch']} as run {run_id}"
    if data.get("live"):
        says += f", {count(data.get('ahead'), 'commit')} ahead of {data['live']}"
    yield status("Accepted", says)


def _stage_done(_run_id: int, event: Event) -> Iterator[str]:
    says, seconds = str(event.data["says"]), float(event.data["seconds"])
    if event.stage is not None and says:
        timed = "" if event.stage is StageName.DEPLOY else f"  {duration(seconds)}"
        yield status(event.stage.value.title(), says + timed)


def _stage_retried(_run_id: int, event: Event) -> Iterator[str]:
    if event.stage is not None:
        yield status(event.stage.value.title(), f"again, because {event.data['error']}")


def _succeeded(_run_id: int, event: Event) -> Iterator[str]:
    data = event.data
    line = f"=====> {data['url']}  {data['release']} in {duration(float(data['seconds']))}"
    yield f"{line}    undo: {data['undo']}" if data.get("undo") else line


def _failed(run_id: int, event: Event) -> Iterator[str]:
    data = event.data
    name = "Run" if event.stage is None else event.stage.value.title()
    yield from problem(f"{name}: {data['error']}")
    for line in data.get("tail") or ():
        yield f" !       {clean(str(line))}".rstrip()
    yield from problem(f"{data.get('live') or 'nothing'} serves.   log: penstock logs {run_id}")
    if data.get("again"):
        yield from problem(f"{data['again']}; to try again: penstock retry {run_id}")


def _awaiting(run_id: int, event: Event) -> Iterator[str]:
    serves = event.data.get("live") or "nothing"
    yield f"=====> NOT LIVE: run {run_id} waits for approval; {serves} serves.    penstock approve {run_id}"


def _cancelled(_run_id: int, event: Event) -> Iterator[str]:
    yield from problem(f"cancelled by {event.data.get('by') or 'someone'}")


def _superseded(_run_id: int, event: Event) -> Iterator[str]:
    yield from problem(
        f"superseded by run {event.data['superseded_by']}: penstock logs -f {event.data['superseded_by']}"
    )


def _ignored(_run_id: int, event: Event) -> Iterator[str]:
    yield status("Ignored", str(event.data["error"]))


_EVENTS = {
    "accepted": _accepted,
    "stage.done": _stage_done,
    "stage.retried": _stage_retried,
    "run.succeeded": _succeeded,
    "run.failed": _failed,
    "run.awaiting": _awaiting,
    "run.cancelled": _cancelled,
    "run.superseded": _superseded,
    "run.ignored": _ignored,
}
