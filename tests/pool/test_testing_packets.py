"""The fake server's packets are those that a MariaDB 10.11 was seen to send, and that drivers were."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penstock_pool.testing import packets, passwords
from penstock_pool.testing.packets import Capability, Hello, Status
from penstock_pool.testing.state import State

SALT = b"01234567890123456789"


def test_lengths_are_as_short_as_they_can_be() -> None:
    assert packets.lenenc(250) == b"\xfa"
    assert packets.lenenc(251) == b"\xfc\xfb\x00"
    assert packets.lenenc(65_535) == b"\xfc\xff\xff"
    assert packets.lenenc(65_536) == b"\xfd\x00\x00\x01"
    assert packets.lenenc(1 << 24) == b"\xfe\x00\x00\x00\x01\x00\x00\x00\x00"
    with pytest.raises(ValueError, match="does not fit"):
        packets.lenenc(1 << 64)


def test_a_payload_is_framed_with_its_length_and_number() -> None:
    assert packets.framed(b"abc", 7) == [b"\x03\x00\x00\x07abc"]
    assert packets.framed(b"", 256) == [b"\x00\x00\x00\x00"]


def test_a_payload_that_fills_a_packet_goes_on_in_an_empty_one() -> None:
    first, second = packets.framed(bytes(packets.LONGEST), 255)
    assert (first[:4], len(first)) == (b"\xff\xff\xff\xff", packets.LONGEST + 4)
    assert second == b"\x00\x00\x00\x00"


def test_a_greeting_is_laid_out_as_mariadbs_is() -> None:
    real = (
        b"\n5.5.5-10.11.19-MariaDB-0+deb12u1\x00\x04\x00\x00\x00>\\3)q!NE\x00\xfe\xf7-\x02\x00\xff\x81\x15"
        b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00M6bm}MFYl6cr\x00mysql_native_password\x00"
    )
    salt = b">\\3)q!NEM6bm}MFYl6cr"
    version, can = "5.5.5-10.11.19-MariaDB-0+deb12u1", Capability(0x81FFF7FE)
    assert packets.greeting(version, 4, salt, can, Status.AUTOCOMMIT, passwords.NATIVE) == real


def test_an_error_before_the_hello_has_no_state() -> None:
    assert packets.error(1040, "", "Too many connections") == b"\xff\x10\x04Too many connections"
    assert packets.error(1317, "70100", "interrupted") == b"\xff\x25\x05#70100interrupted"


def hello(flags: Capability, *parts: bytes) -> bytes:
    return flags.to_bytes(4, "little") + bytes(28) + b"".join(parts)


def test_a_hello_is_understood_whatever_it_carries() -> None:
    flags = Capability.CONNECT_WITH_DB | Capability.PLUGIN_AUTH
    told = hello(flags, b"app\0", b"\x02hi", b"shop\0", b"mysql_native_password\0", b"\x04\x01a\x01b")
    assert Hello.parsed(told) == Hello(flags, False, "app", b"hi", "shop", "mysql_native_password")
    assert Hello.parsed(hello(Capability.TLS)).wants_tls


@given(st.binary(max_size=80))
@example(bytes(33))
@example(bytes(33) + b"\x09")
def test_a_malformed_hello_is_a_value_error(payload: bytes) -> None:
    with contextlib.suppress(ValueError):
        Hello.parsed(payload)


def test_the_changes_of_a_session_are_told_as_mariadb_tells_them() -> None:
    state = State()
    state.set("autocommit", "0")
    assert state.changes() == b"\x00\x0f\nautocommit\x03OFF"
    state.set("session_track_state_change", "1")
    state.set("session_track_transaction_info", "STATE")
    state.changes()
    state.set("autocommit", "1")
    assert state.changes() == b"\x00\x0e\nautocommit\x02ON\x02\x011"
    state.set("@x", "1")
    assert state.changes() == b"\x02\x011"
    state.use("shop")
    assert state.changes() == b"\x01\x05\x04shop\x02\x011"
    state.in_transaction = True
    assert state.changes() == b"\x05\t\x08T_______"
    state.in_transaction = False
    assert state.changes() == b"\x05\t\x08________"
    assert state.changes() == b""


def test_a_reset_forgets_what_is_tracked_but_not_the_database() -> None:
    state = State("shop")
    state.set("session_track_state_change", "1")
    state.reset()
    state.set("@x", "1")
    assert (state.database, state.changes()) == ("shop", b"")


@pytest.mark.parametrize("proof", [passwords.native, passwords.caching_sha2])
def test_nothing_is_shown_of_no_password(proof: object) -> None:
    assert callable(proof)
    assert proof("", SALT) == b""
    assert proof("one", SALT) != proof("other", SALT)
