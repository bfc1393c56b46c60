"""The state folder: one engine at a time, and trouble with it told in a line."""

from __future__ import annotations

import contextlib
import logging
import socket
from pathlib import Path

import pytest
from plugins.penstock import Penstock, up

from penstock_pipeline import app


def test_a_second_engine_over_a_state_is_refused_and_the_first_serves_on(penstock: Penstock) -> None:
    code, said = up(penstock.state)
    assert code == 2
    assert f"a Penstock runs already over {penstock.state} (pid {penstock.client['pid']})" in said
    assert penstock.api("/status")["apps"] == []


def test_the_log_of_the_engine_does_not_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LOG_SIZE", 1000)
    with contextlib.closing(app._LogFile(tmp_path / "engine.log")) as file:
        for number in range(100):
            file.emit(logging.makeLogRecord({"msg": f"line {number} " + "x" * 90}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["engine.log", "engine.log.1"]
    assert "line 99" in (tmp_path / "engine.log").read_text()
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())


def test_forges_are_told_the_public_address(short_tmp: Path) -> None:
    with Penstock(short_tmp, public_url="https://deploy.example.com/penstock/") as penstock:
        penstock.add("shop")
        urls = penstock.urls("shop")
    assert urls["webhooks"]["gitlab"] == "https://deploy.example.com/penstock/hooks/gitlab/shop"
    assert urls["remote"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("kind", ["a file", "below a file", "a link to nowhere"])
def test_a_state_that_cannot_be_is_told_with_its_name(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "a link to nowhere":
        place.symlink_to("nowhere/at/all")
    else:
        place.touch()
    state = place / "below" if kind == "below a file" else place
    code, said = up(state)
    assert code != 0
    assert str(state) in said
    assert "Traceback" not in said


def test_a_port_that_is_taken_is_told_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = up(tmp_path / "state", "--port", str(port))
    assert code == 3
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port" in said
    assert not (tmp_path / "state" / "front").exists()


def test_ports_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "ports.json").write_text("{")
    code, said = up(tmp_path)
    assert code == 2
    assert "ports.json" in said
    assert "remove it" in said
    assert "Traceback" not in said


def test_ports_that_were_chosen_are_kept_even_when_everything_was_stopped(penstock: Penstock) -> None:
    chosen = (penstock.state / "ports.json").read_text()
    penstock.stop()
    penstock.run("down")
    penstock.start()
    assert (penstock.state / "ports.json").read_text() == chosen
