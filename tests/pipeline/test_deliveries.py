"""Whoever subscribes is told everything, in order, at least once; who does not listen holds nobody up."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web
from plugins import recorded
from plugins.desk import BASE, Desk
from plugins.house import eventually
from plugins.ports import free_port
from plugins.receivers import Received, Receiver
from plugins.upstreams import socket_that

from penstock_pipeline.errors import Invalid, NotFound, SubscriberUnavailable
from penstock_pipeline.model import App, Run, RunStatus, StageName
from penstock_pipeline.settings import Settings
from penstock_pipeline.store import SqliteStore, history, queue, registry, rows, subscriptions
from penstock_pipeline.store.subscriptions import Subscription
from penstock_pipeline.subscribers import addresses, courier, deliveries
from penstock_pipeline.subscribers.courier import Courier
from penstock_pipeline.subscribers.deliveries import PAUSES
from penstock_pipeline.subscribers.message import Message

COMMIT = "4f51232" + "a" * 33
LATER = (600.0,) * 11


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Desk.over(SqliteStore(tmp_path / "penstock.db"), tmp_path) as desk:
        yield desk


@pytest.fixture
async def shop(desk: Desk) -> App:
    return await desk.store.write(registry.add, name="shop", branch="main", port=7100)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver().serving() as serving:
        yield serving


async def pushed(desk: Desk, app: App, commit: str = COMMIT) -> Run:
    """A push that goes live."""
    run = await recorded.accepted(desk.store, app, commit)
    await recorded.succeeded(desk.store, run)
    return run


async def accepted(desk: Desk, app: App, number: int) -> None:
    """As many events, each of a push that supersedes the one before."""
    for count in range(number):
        await recorded.accepted(desk.store, app, f"{count:040x}")


# -- what is told


async def test_a_push_is_told_from_its_acceptance_to_its_end(
    desk: Desk, shop: App, receiver: Receiver
) -> None:
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering():
        run = await pushed(desk, shop)
        await eventually(lambda: desk.settled(subscription))
    stages = [one.document["data"]["stage"] for one in receiver.received if one.type == "stage.done"]
    assert stages == ["checkout", "test", "build", "upload", "start", "deploy"]
    assert (receiver.types[0], receiver.types[-1]) == ("run.accepted", "run.succeeded")
    last = receiver.received[-1].document
    assert last["data"]["release"] == "v1"
    assert (last["data"]["run"], last["data"]["commit"], last["subject"]) == (run.id, COMMIT, "shop")


async def test_a_message_is_a_signed_cloud_event(desk: Desk, shop: App, receiver: Receiver) -> None:
    await desk.subscribed(receiver.url)
    async with desk.delivering():
        run = await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: receiver.received)
    (one,) = receiver.received
    one.verify(desk.secret)
    assert one.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    document = one.document
    assert one.id == document["id"]
    assert document["traceparent"].startswith(f"00-{run.trace_id}-")
    assert (document["specversion"], document["source"]) == ("1.0", BASE)
    assert document["data"]["page"] == f"{BASE}/runs/{run.id}"
    assert datetime.fromisoformat(document["time"]).tzinfo is not None
    assert None not in document["data"].values()


async def test_an_approval_is_told_by_name(desk: Desk, shop: App, receiver: Receiver) -> None:
    await desk.subscribed(receiver.url)
    run = await recorded.accepted(desk.store, shop, COMMIT)
    await recorded.began(desk.store, run, StageName.UPLOAD)
    await desk.store.write(queue.start_stage, run, StageName.APPROVE)
    await desk.store.write(queue.finish, run.id, RunStatus.AWAITING, data={"live": None})
    await desk.store.write(queue.approve, run.id, by="ben")
    async with desk.delivering():
        await eventually(lambda: "run.approved" in receiver.types)
    assert receiver.types[-2:] == ["run.awaiting", "run.approved"]
    assert receiver.received[-1].document["data"]["says"] == "approved by ben"


async def test_a_subscriber_of_one_app_hears_of_no_other(desk: Desk, shop: App, receiver: Receiver) -> None:
    blog = await desk.store.write(registry.add, name="blog", branch="main", port=7101)
    subscription = await desk.subscribed(receiver.url, app="shop")
    async with desk.delivering():
        await pushed(desk, blog)
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: desk.settled(subscription))
    assert [one.document["subject"] for one in receiver.received] == ["shop"]


async def test_what_happened_before_is_not_told(desk: Desk, shop: App, receiver: Receiver) -> None:
    await recorded.accepted(desk.store, shop, "b" * 40)
    subscription = await desk.subscribed(receiver.url)
    await recorded.accepted(desk.store, shop, COMMIT)
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))
    assert {one.document["data"]["commit"] for one in receiver.received[:1]} == {COMMIT}


async def test_the_secret_lies_nowhere_in_plain_text(desk: Desk, receiver: Receiver) -> None:
    subscription = await desk.subscribed(receiver.url)
    assert desk.secret not in (await desk.store.read(subscriptions.get, subscription.id)).sealed
    assert desk.secret not in repr(subscription)


# -- subscribers that fail


@pytest.mark.parametrize("status", [301, 404, 429, 500, 503])
async def test_what_was_not_taken_is_sent_again_under_the_same_id(
    desk: Desk, shop: App, receiver: Receiver, status: int
) -> None:
    receiver.answers = [(status, {"Location": receiver.url + "/elsewhere"}, "not now")] * 3
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering():
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: desk.settled(subscription))
    assert len(receiver.ids) == 4
    assert len(set(receiver.ids)) == 1
    assert {one.path for one in receiver.received} == {"/hook"}  # no redirect was followed


async def test_a_receiver_that_is_down_gets_everything_in_order_once_it_is_up(desk: Desk, shop: App) -> None:
    port = free_port()
    subscription = await desk.subscribed(f"http://127.0.0.1:{port}/hook")
    async with desk.delivering((0.02,) * 200):
        await accepted(desk, shop, 5)
        await eventually(lambda: desk.waiting(subscription))
        assert "127.0.0.1" in str((await desk.standing(subscription)).error)
        async with Receiver().serving(port) as receiver:
            await eventually(lambda: desk.settled(subscription))
    numbers = [int(one.id.rpartition("-")[2]) for one in receiver.received]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 5 + 4  # each push supersedes the one before


async def test_what_waits_keeps_its_order_behind_a_young_failure(
    desk: Desk, shop: App, receiver: Receiver
) -> None:
    receiver.answers = [(500, {}, "")] * (subscriptions.STEPS_ASIDE - 1)
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering():
        await accepted(desk, shop, 3)
        await eventually(lambda: desk.settled(subscription))
    numbers = [int(one.id.rpartition("-")[2]) for one in receiver.received]
    assert numbers == sorted(numbers)


async def test_what_was_put_off_before_the_clock_was_set_back_is_tried_at_once(
    desk: Desk, shop: App, receiver: Receiver
) -> None:
    subscription = await desk.subscribed(receiver.url)
    await accepted(desk, shop, 2)
    first, *_ = await desk.store.read(history.events_after, subscription.cursor)
    years_ahead = rows.now() + timedelta(days=3650)
    await desk.store.write(
        subscriptions.failed, subscription.id, first.id, error="not now", next_at=years_ahead
    )
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))


async def test_an_event_that_is_never_taken_steps_aside_and_ends_as_a_dead_letter(
    desk: Desk, shop: App, receiver: Receiver
) -> None:
    async def poison(one: Received) -> None:
        receiver.always = (500, {}, "cannot read this") if one.type == "run.accepted" else (200, {}, "")

    receiver.before = poison
    subscription = await desk.subscribed(receiver.url)
    run = await recorded.accepted(desk.store, shop, COMMIT)
    await desk.store.write(queue.cancel_waiting, run.id, by="ben")
    async with desk.delivering():
        await eventually(lambda: desk.dead(subscription, 1))
        await eventually(lambda: "run.cancelled" in receiver.types)
    (letter,) = await desk.subscribers.dead_letters()
    assert letter.attempts == len(PAUSES) + 1 == receiver.types.count("run.accepted")
    assert "answers 500: cannot read this" in letter.error


async def test_a_dead_letter_is_delivered_after_all(desk: Desk, shop: App, receiver: Receiver) -> None:
    receiver.always = (500, {}, "")
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering(()):
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: desk.dead(subscription, 1))
        receiver.always = (200, {}, "")
        assert await desk.subscribers.retry(subscription.id) == 1
        await eventually(lambda: desk.settled(subscription))
    assert receiver.ids[0] == receiver.ids[1]
    with pytest.raises(NotFound):
        await desk.subscribers.retry(subscription.id, event=1)


async def test_of_dead_letters_only_so_many_are_kept_and_the_rest_is_counted(
    desk: Desk, shop: App, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "DEAD_LETTERS", 3)
    receiver.always = (500, {}, "")
    subscription = await desk.subscribed(receiver.url)
    await accepted(desk, shop, 5)
    async with desk.delivering(()):
        await eventually(lambda: desk.dead(subscription, 3))
        await eventually(lambda: len(receiver.received) == 9)
        await eventually(lambda: _dropped(desk, subscription, 6))
    kept = [letter.event.id for letter in await desk.subscribers.dead_letters()]
    assert kept == sorted(kept)[-3:]


async def _dropped(desk: Desk, subscription: Subscription, number: int) -> bool:
    return (await desk.standing(subscription)).subscription.dropped == number


async def test_a_subscriber_that_is_gone_is_told_nothing_more_until_somebody_asks(
    desk: Desk, shop: App, receiver: Receiver
) -> None:
    receiver.answers = [(410, {}, "")]
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering():
        await recorded.accepted(desk.store, shop, "b" * 40)
        await eventually(lambda: _disabled(desk, subscription))
        await recorded.accepted(desk.store, shop, COMMIT)
        await asyncio.sleep(0)
        assert len(receiver.received) == 1
        assert await desk.subscribers.retry(subscription.id) == 0
        await eventually(lambda: desk.settled(subscription))
    assert receiver.ids[0] == receiver.ids[1]  # nothing of it is lost
    assert len(receiver.ids) == 4


async def _disabled(desk: Desk, subscription: Subscription) -> bool:
    reason = (await desk.standing(subscription)).subscription.disabled
    return reason is not None and "410" in reason


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("120", 100, 121),
        pytest.param(
            format_datetime(datetime.now(UTC) + timedelta(days=30), usegmt=True), 3000, 3601, id="in a month"
        ),
        ("99999999999999999999", 3000, 3601),
        ("soon", 0, 10),
        ("-5", 0, 10),
    ],
)
async def test_a_subscriber_may_ask_for_a_pause_within_bounds(
    desk: Desk, shop: App, receiver: Receiver, asked: str, least: float, most: float
) -> None:
    receiver.always = (429, {"Retry-After": asked}, "")
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering((5.0,)):
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: desk.waiting(subscription))
    next_at = (await desk.standing(subscription)).next_at
    assert next_at is not None
    assert least <= (next_at - rows.now()).total_seconds() <= most


def test_twelve_attempts_take_about_a_day() -> None:
    assert len(PAUSES) == 11
    assert 20 * 3600 < sum(PAUSES) < 26 * 3600
    assert list(PAUSES) == sorted(PAUSES)


async def test_one_who_hangs_is_given_up_and_holds_up_nobody(
    desk: Desk, shop: App, receiver: Receiver
) -> None:
    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    desk.courier = Courier(timeout=0.2)
    async with socket_that(hang) as address:
        deaf = await desk.subscribed(f"http://{address}/")
        well = await desk.subscribed(receiver.url)
        async with desk.delivering(LATER):
            await pushed(desk, shop)
            await eventually(lambda: desk.settled(well))
            await eventually(lambda: desk.waiting(deaf))
    assert "did not answer within 0.2 s" in str((await desk.standing(deaf)).error)
    assert (await desk.standing(deaf)).behind > 0  # it waits behind the failure; nothing was sent meanwhile
    await desk.courier.close()


async def test_an_answer_without_end_is_not_read(desk: Desk, shop: App) -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Broken\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    async with socket_that(pour) as address:
        subscription = await desk.subscribed(f"http://{address}/")
        async with desk.delivering(LATER):
            await recorded.accepted(desk.store, shop, COMMIT)
            await eventually(lambda: desk.waiting(subscription))
    assert sent < 64 * 1024 * 1024
    assert len(str((await desk.standing(subscription)).error)) < 400


@pytest.mark.parametrize("said", [b"", b"\x00\xff garbage\r\n\r\n", b"HTTP/1.1 200 " + b"x" * 100_000])
async def test_garbage_for_an_answer_is_a_failure_that_is_told(desk: Desk, shop: App, said: bytes) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()

    async with socket_that(garbage) as address:
        subscription = await desk.subscribed(f"http://{address}/")
        async with desk.delivering(LATER):
            await recorded.accepted(desk.store, shop, COMMIT)
            await eventually(lambda: desk.waiting(subscription))
    assert (await desk.standing(subscription)).error


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    desk: Desk, shop: App, tmp_path: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(tmp_path))
    asked = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request)
        return web.Response()

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    subscription = await desk.subscribed(f"https://127.0.0.1:{site.port}/hook")
    async with desk.delivering(LATER):
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: desk.waiting(subscription))
    assert "certificate" in str((await desk.standing(subscription)).error).lower()
    assert asked == []
    await runner.cleanup()


def self_signed(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


async def test_a_backlog_of_a_thousand_events_is_delivered_once_each_in_order(
    desk: Desk, shop: App, receiver: Receiver
) -> None:
    subscription = await desk.subscribed(receiver.url)
    await asyncio.gather(*(recorded.accepted(desk.store, shop, f"{number:040x}") for number in range(500)))
    assert (await desk.standing(subscription)).behind == 999
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription), within=30)
    numbers = [int(one.id.rpartition("-")[2]) for one in receiver.received]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 999


async def test_deliveries_that_end_go_on_where_they_were(desk: Desk, shop: App, receiver: Receiver) -> None:
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering():
        await recorded.accepted(desk.store, shop, "b" * 40)
        await eventually(lambda: desk.settled(subscription))
    await recorded.accepted(desk.store, shop, COMMIT)
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))
    assert len(set(receiver.ids)) == len(receiver.ids) == 3


async def test_one_that_is_cut_off_while_it_is_sent_is_sent_again(
    desk: Desk, shop: App, receiver: Receiver
) -> None:
    taken, never = asyncio.Event(), asyncio.Event()

    async def stuck(_one: Received) -> None:
        taken.set()
        await never.wait()

    receiver.before = stuck
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering():
        await recorded.accepted(desk.store, shop, COMMIT)
        await taken.wait()
    receiver.before = None
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))
    assert receiver.ids[0] == receiver.ids[1]


async def test_who_is_removed_is_told_nothing_more(desk: Desk, shop: App, receiver: Receiver) -> None:
    receiver.always = (500, {}, "")
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering((0.01,) * 1000):
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: receiver.received)
        await desk.subscribers.remove(subscription.id)
        await eventually(lambda: not any("subscriber-" in task.get_name() for task in asyncio.all_tasks()))
    assert await desk.subscribers.standings() == []
    assert await desk.subscribers.dead_letters() == []


async def test_a_secret_that_cannot_be_opened_is_a_failure_like_any_other(
    desk: Desk, shop: App, receiver: Receiver, tmp_path: Path
) -> None:
    subscription = await desk.subscribed(receiver.url)
    key = (tmp_path / "secrets.key").read_bytes()
    (tmp_path / "secrets.key").unlink()
    async with desk.delivering((0.02,) * 500):
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: desk.waiting(subscription))
        (tmp_path / "secrets.key").write_bytes(key)
        (tmp_path / "secrets.key").chmod(0o600)
        await eventually(lambda: desk.settled(subscription))
    assert len(receiver.received) == 1


async def test_with_no_subscriber_one_task_sleeps(desk: Desk, shop: App) -> None:
    async with desk.delivering():
        await pushed(desk, shop)
        assert not any("subscriber-" in task.get_name() for task in asyncio.all_tasks())
    assert desk.courier._session is None


def test_an_engine_that_has_nobody_to_tell_does_not_load_what_is_told() -> None:
    program = "import sys, penstock_pipeline.app; print([n for n in sys.modules if 'letters' in n])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_links_lead_to_where_people_reach_this_penstock(tmp_path: Path) -> None:
    assert Settings(state=tmp_path).reached_at == "http://127.0.0.1:7070"
    assert Settings(state=tmp_path, public_url="https://x.example/penstock/").reached_at == (
        "https://x.example/penstock"
    )
    for wrong in ("x.example", "ftp://x.example", "https://ann@x.example", "https://x.example/?a"):
        with pytest.raises(ValueError, match="must be a URL such as"):
            Settings(state=tmp_path, public_url=wrong)


async def test_a_fault_of_ours_ends_no_other_delivery(
    desk: Desk, shop: App, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "FAULT_PAUSE", 0.01)
    told, faults = subscriptions.told, iter([RuntimeError("a fault")])

    def faulty(*arguments: object) -> subscriptions.Told:
        if (fault := next(faults, None)) is not None:
            raise fault
        return told(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(subscriptions, "told", faulty)
    subscription = await desk.subscribed(receiver.url)
    async with desk.delivering():
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: desk.settled(subscription))
    assert len(receiver.received) == 1


# -- a ping


async def test_a_ping_tells_whether_it_arrives(desk: Desk, receiver: Receiver) -> None:
    subscription = await desk.subscribed(receiver.url)
    await desk.subscribers.test(subscription.id)
    receiver.received[0].verify(desk.secret)
    assert receiver.types == ["ping"]
    receiver.always = (403, {}, "who are you?\x1b[2J\nsecond line")
    with pytest.raises(SubscriberUnavailable, match=r"answers 403: who are you\? second line"):
        await desk.subscribers.test(subscription.id)


# -- where nothing is sent


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/",
        "file:///etc/passwd",
        "http://",
        "//example.com/hook",
        "http://ann:secret@127.0.0.1/hook",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",  # 169.254.169.254 as one number
        "http://0xa9fea9fe/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX-Evil: 1",
        "http://127.0.0.1:99999/",
        "http://bücher.example/",
        "http://127.0.0.1\\@example.com/",
        "http://[::1]x/",
        "http://xn--/",
    ],
)
async def test_a_url_that_nothing_may_be_sent_to_is_refused(desk: Desk, url: str) -> None:
    with pytest.raises(Invalid):
        await desk.subscribed(url)
    assert await desk.subscribers.standings() == []


async def test_a_name_that_turns_to_a_metadata_address_later_is_not_connected_to(
    desk: Desk, shop: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscription = await desk.subscribed("http://localhost:9/hook")
    loop = asyncio.get_running_loop()

    async def rebound(_host: object, port: object, **_: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("169.254.169.254", port or 80))]

    monkeypatch.setattr(loop, "getaddrinfo", rebound)
    async with desk.delivering(LATER):
        await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: desk.waiting(subscription))
    assert "metadata" in str((await desk.standing(subscription)).error)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "::1", "93.184.216.34", "fd00::1", "64:ff9b::10.1.2.3"]
)
def test_loopback_and_private_networks_are_allowed(address: str) -> None:
    assert not addresses.refused(address)


@pytest.mark.parametrize(
    "address", ["fd20:ce::254", "64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe", "::ffff:169.254.169.254"]
)
def test_metadata_addresses_are_refused_in_each_of_their_guises(address: str) -> None:
    assert addresses.refused(address)


async def test_a_url_that_cannot_be_read_is_a_failure_like_any_other() -> None:
    with pytest.raises(SubscriberUnavailable, match="is not a URL"):
        await Courier().send(Message("POST", "http://xn--/", {}))


async def test_a_literal_metadata_address_is_not_connected_to_either() -> None:
    with pytest.raises(OSError, match="metadata"):
        courier._checked_socket((2, 1, 6, "", ("169.254.169.254", 80)))
