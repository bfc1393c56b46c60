"""What people are told is plain, and no program can fake it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from penstock_pipeline import tell
from penstock_pipeline.model import Event, StageName


def event(kind: str, stage: StageName | None = None, **data: object) -> Event:
    return Event(1, 118, 1, datetime.now(UTC), kind, stage, data)


COMMIT = "4f51232aaaa"
URL = "https://shop.example.com/"
UNDO = "penstock rollback shop"


@pytest.mark.parametrize(
    ("happened", "lines"),
    [
        (
            event("accepted", commit=COMMIT, branch="main", ahead=3, live="v41"),
            ["-----> Accepted   4f51232 on main as run 118, 3 commits ahead of v41"],
        ),
        (
            event("accepted", commit=COMMIT, branch="main"),
            ["-----> Accepted   4f51232 on main as run 118"],
        ),
        (
            event("stage.done", StageName.TEST, says="passed", seconds=2.13),
            ["-----> Test       passed  2.1s"],
        ),
        (event("stage.done", StageName.CHECKOUT, says="", seconds=2.13), []),
        (
            event("run.succeeded", url=URL, release="v42", seconds=8.1, undo=UNDO),
            ["=====> https://shop.example.com/  v42 in 8.1s    undo: penstock rollback shop"],
        ),
        (
            event("run.failed", StageName.TEST, error="exit code 2", tail=["boom"], live="v41"),
            [
                " !     Test: exit code 2",
                " !       boom",
                " !     v41 serves.   log: penstock logs 118",
            ],
        ),
        (
            event("stage.done", StageName.CHECKOUT, says="left out: a\n=====> https://evil", seconds=1),
            ["-----> Checkout   left out: a=====> https://evil  1.0s"],
        ),
        (event("run.superseded", superseded_by=119), [" !     superseded by run 119: penstock logs -f 119"]),
    ],
)
def test_events_become_lines(happened: Event, lines: list[str]) -> None:
    assert tell.Narrator(118).event(happened) == lines


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("10%\r50%\r100%", "100%"),
        ("bell\x07 and \x00null", "bell and null"),
        ("right\u202eto left", "rightto left"),
        ("tab\tstays", "tab\tstays"),
        ("\x9b31mred", "31mred"),
        ("half a \udcff character", "half a  character"),
        ("two\nlines", "twolines"),
    ],
)
def test_output_is_harmless_at_a_terminal(printed: str, shown: str) -> None:
    assert tell.clean(printed) == shown


def test_output_cannot_fake_a_status_line() -> None:
    lines = tell.Narrator(1).output(
        StageName.TEST, b"=====> https://evil.example  v9 in 1s\n-----> Test passed\n"
    )
    assert all(line.startswith("       ") for line in lines)


def test_half_lines_wait_for_their_end_or_the_stages() -> None:
    narrator = tell.Narrator(1)
    assert narrator.output(StageName.TEST, b"one\ntw") == ["       one"]
    assert narrator.output(StageName.TEST, b"o\nthree") == ["       two"]
    done = event("stage.done", StageName.TEST, says="passed", seconds=1)
    assert narrator.event(done) == ["       three", "-----> Test       passed  1.0s"]


def test_a_long_stage_is_heard_of_and_says_once_how_to_leave() -> None:
    narrator = tell.Narrator(118)
    assert narrator.silence(StageName.BUILD, 5.0) == [
        "-----> Build      … 5.0s",
        "       Ctrl-C detaches, the run goes on: penstock logs -f 118",
    ]
    assert narrator.silence(StageName.BUILD, 10.0) == ["-----> Build      … 10.0s"]


def test_a_flood_is_cut_and_the_log_named() -> None:
    lines = tell.Narrator(5).output(StageName.TEST, b"x\n" * 5000)
    assert len(lines) == tell.OUTPUT_LINES + 1
    assert lines[-1].endswith("penstock logs 5 --stage test")


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.0842, "84ms"), (2.13, "2.1s"), (99.0, "99.0s"), (185, "3m 05s")]
)
def test_durations_read_well(seconds: float, told: str) -> None:
    assert tell.duration(seconds) == told
