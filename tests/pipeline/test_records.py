"""What lies on the disk of a release tells none of its secrets, and they are there when it starts again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from plugins import local_bench

from penstock_pipeline.errors import Unsealable
from penstock_pipeline.runtimes import Candidate
from penstock_pipeline.runtimes.records import Records
from penstock_pipeline.vault import Vault

ENV = {"TOKEN": "hunter22", "EMPTY": "", "LETTERS": "ä\n\udcff"}


def candidate(name: str = "shop-1", *, env: Mapping[str, str]) -> Candidate:
    return replace(local_bench.candidate(name), env=env)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "runtime", Vault(tmp_path / "secrets.key"))


def test_an_environment_is_sealed_on_the_disk_and_opened_for_who_starts_it(
    tmp_path: Path, records: Records
) -> None:
    asked = candidate(env=ENV)
    records.keep_candidate(asked)
    content = (records.folder(asked.name) / "candidate").read_text()
    assert not any(part in content for part in ("TOKEN", "hunter22"))
    kept = records.candidate(asked.name)
    assert kept == asked
    assert kept is not None
    assert {**kept.env} == ENV
    assert "hunter22" not in repr(kept)


def test_nothing_is_sealed_where_there_is_no_environment(tmp_path: Path, records: Records) -> None:
    records.keep_candidate(candidate(env={}))
    assert records.candidates() == [candidate(env={})]
    assert not (tmp_path / "secrets.key").exists()


def test_without_the_key_it_is_known_but_never_started_without_its_environment(
    tmp_path: Path, records: Records
) -> None:
    records.keep_candidate(candidate(env=ENV))
    (tmp_path / "secrets.key").unlink()
    (kept,) = records.candidates()
    assert kept.name == "shop-1"
    with pytest.raises(Unsealable, match=r"secrets\.key, the key of every secret, is gone"):
        dict(kept.env)


def test_the_environment_of_one_release_does_not_open_as_that_of_another(records: Records) -> None:
    records.keep_candidate(candidate("shop-1", env=ENV))
    stolen = records.folder("shop-2")
    stolen.mkdir()
    (records.folder("shop-1") / "candidate").rename(stolen / "candidate")
    kept = records.candidate("shop-2")
    assert kept is not None
    with pytest.raises(Unsealable, match="what is sealed of shop-2 cannot be opened"):
        dict(kept.env)
