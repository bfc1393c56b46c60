"""A stage's log holds no secret, and a disk that is full fails no stage."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from penstock_pipeline import tell
from penstock_pipeline.dashboard import output
from penstock_pipeline.errors import StoreUnavailable
from penstock_pipeline.mask import Mask
from penstock_pipeline.model import StageName
from penstock_pipeline.store.changes import Changes
from penstock_pipeline.store.logs import Logs

BUILD = StageName.BUILD


@pytest.fixture
async def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "logs", limit=1000, changes=Changes())


async def test_secrets_are_masked_however_they_are_written(logs: Logs) -> None:
    with logs.open(7, BUILD, Mask(["hunter22"])) as log:
        for piece in (b"key hun", b"ter", b"22 set\n", b"at the end: hunter"):
            log.write(piece)
        assert logs.read(7, BUILD) == b"key [secret] set\nat the end: "
        log.write(b"22")
    assert logs.read(7, BUILD) == b"key [secret] set\nat the end: [secret]"


@pytest.mark.parametrize("between", [b"\x1b[0m", b"\0"])
async def test_what_makes_output_harmless_puts_no_secret_together(logs: Logs, between: bytes) -> None:
    with logs.open(7, BUILD, Mask(["supersecret"])) as log:
        for piece in (b"key super", between[:1], between[1:], b"secret set\n"):
            log.write(piece)
    kept = logs.read(7, BUILD)
    assert tell.Narrator(7).output(BUILD, kept) == ["       key [secret] set"]
    assert output.plain(kept.decode()) == "key [secret] set\n"


async def test_what_looked_like_a_secret_to_the_end_is_kept(logs: Logs) -> None:
    with logs.open(7, BUILD, Mask(["hunter22"])) as log:
        log.write(b"the hunter")
    assert logs.read(7, BUILD) == b"the hunter"


async def test_a_full_log_shows_no_secret_and_counts_what_it_dropped(logs: Logs) -> None:
    with logs.open(7, BUILD, Mask(["hunter22"])) as log:
        log.write(b"x" * 996 + b"hunter22")
        log.write(b"hunter22" * 100)
    kept = logs.read(7, BUILD)
    assert kept.startswith(
        b"x" * 996 + b"[sec\npenstock: the log is full at 1,000 bytes; 804 more were dropped"
    )


async def test_a_full_disk_fails_no_stage(logs: Logs) -> None:
    path = logs.path(7, BUILD)
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/full")
    with logs.open(7, BUILD) as log:
        log.write(b"one\n")
        log.write(b"two\n")


async def test_what_a_full_disk_took_is_kept_and_the_rest_is_told_once_there_is_room(logs: Logs) -> None:
    with logs.open(7, BUILD) as log:
        with room_for(100):
            log.write(b"x" * 150)
        log.write(b"not after a gap")
    told = "the log could not be written: File too large; 65 more were dropped"
    assert logs.read(7, BUILD).decode() == "x" * 100 + f"\npenstock: {told}\n"


async def test_a_log_that_cannot_be_made_is_told_with_its_name(tmp_path: Path, logs: Logs) -> None:
    (tmp_path / "logs").write_text("a file where a folder should be")
    with pytest.raises(StoreUnavailable, match=r"7/build\.log cannot be written"):
        logs.open(7, BUILD)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
