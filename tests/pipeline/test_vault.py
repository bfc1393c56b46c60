"""What is sealed opens with its key, in its place, and nowhere else."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock_pipeline.errors import Unavailable, Unsealable
from penstock_pipeline.vault import Vault

PLAIN = b"correct horse battery staple"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "secrets.key"


@pytest.fixture
def vault(key_file: Path) -> Vault:
    return Vault(key_file)


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.mark.parametrize("plain", [b"", b"x", bytes(range(256)), b"\n" * 100_000])
def test_what_was_sealed_opens_again(vault: Vault, key_file: Path, plain: bytes) -> None:
    sealed = vault.seal(plain, about="shop")
    assert sealed.isascii()
    assert sealed.isprintable()
    assert Vault(key_file).open(sealed, about="shop") == plain


def test_sealed_text_shows_neither_the_value_nor_that_two_are_equal(vault: Vault) -> None:
    sealed = [vault.seal(PLAIN, about="shop") for _ in range(2)]
    assert sealed[0] != sealed[1]
    whole = base64.urlsafe_b64decode(sealed[0].removeprefix("v1:"))
    assert not any(word in whole for word in PLAIN.split())


def test_a_value_that_was_moved_elsewhere_does_not_open(vault: Vault) -> None:
    with pytest.raises(Unsealable, match="what is sealed of blog cannot be opened"):
        vault.open(vault.seal(PLAIN, about="shop"), about="blog")


def test_a_damaged_value_is_told_without_showing_it(vault: Vault, key_file: Path) -> None:
    sealed = vault.seal(PLAIN, about="shop")
    for at in range(len(sealed)):
        damaged = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        with pytest.raises(Unsealable, match="what is sealed of shop") as told:
            vault.open(damaged, about="shop")
        assert str(key_file) in str(told.value)
        assert damaged not in str(told.value)


@pytest.mark.parametrize(
    "sealed", ["", "v1:", "v1:AAAA", "v1:" + "A" * 16, "v2:" + "A" * 64, "v1:é", "secret"]
)
def test_what_seal_never_made_does_not_open(vault: Vault, sealed: str) -> None:
    vault.seal(PLAIN, about="shop")
    with pytest.raises(Unsealable, match="what is sealed of shop"):
        vault.open(sealed, about="shop")


def test_the_key_is_made_when_first_needed_and_its_owners_alone(vault: Vault, key_file: Path) -> None:
    assert not key_file.exists()
    vault.seal(PLAIN, about="shop")
    assert key_file.stat().st_mode & 0o777 == 0o600


def test_opening_never_makes_a_key(vault: Vault, key_file: Path) -> None:
    sealed = vault.seal(PLAIN, about="shop")
    key_file.unlink()
    with pytest.raises(Unsealable, match=r"secrets\.key, the key of every secret, is gone\nput it back"):
        vault.open(sealed, about="shop")
    assert not key_file.exists()


def test_a_new_key_in_front_seals_and_the_old_one_still_opens(vault: Vault, key_file: Path) -> None:
    before, old = vault.seal(PLAIN, about="shop"), key_file.read_text()
    key_file.write_text(f"{new_key()}\n{old}")
    after = vault.seal(PLAIN, about="shop")
    assert {vault.open(sealed, about="shop") for sealed in (before, after)} == {PLAIN}
    key_file.write_text(old)
    with pytest.raises(Unsealable, match="put that key back as another line"):
        vault.open(after, about="shop")


@pytest.mark.parametrize("line", ["", "not base64!", base64.b64encode(bytes(31)).decode()])
def test_a_line_that_is_no_key_is_told_by_its_number(vault: Vault, key_file: Path, line: str) -> None:
    sealed = vault.seal(PLAIN, about="shop")
    key_file.write_text(f"{new_key()}\n{line}\n")
    for use in (vault.seal, vault.open):
        with pytest.raises(Unsealable, match=r"secrets\.key:2: not a key of 32 bytes in base64"):
            use(PLAIN, about="shop") if use == vault.seal else vault.open(sealed, about="shop")


def test_a_key_that_everyone_can_read_is_refused(vault: Vault, key_file: Path) -> None:
    vault.seal(PLAIN, about="shop")
    key_file.chmod(0o644)
    with pytest.raises(Unsealable, match=r"open to everyone\nchmod 600"):
        vault.seal(PLAIN, about="shop")


def test_a_key_file_out_of_reach_is_worth_a_retry(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where a folder should be")
    with pytest.raises(Unavailable, match="the key of every secret"):
        Vault(tmp_path / "folder/secrets.key").seal(PLAIN, about="shop")


def test_all_who_seal_first_at_once_share_one_key(vault: Vault, key_file: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        sealed = list(threads.map(lambda _: Vault(key_file).seal(PLAIN, about="shop"), range(8)))
    assert {vault.open(one, about="shop") for one in sealed} == {PLAIN}


def test_a_vault_that_is_not_used_costs_no_memory() -> None:
    script = """
import sys
from pathlib import Path
from penstock_pipeline.vault import Vault
Vault(Path("/nowhere/secrets.key"))
sys.exit("nacl" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
