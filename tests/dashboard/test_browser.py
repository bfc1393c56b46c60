"""The dashboard in a real browser, over a real Penstock: people sign in, watch, and press buttons."""

from __future__ import annotations

import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from plugins.compute_tasks import until
from plugins.penstock import Penstock, service, static, wait_for_end

FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

expect.set_options(timeout=20_000)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if program is None:
        told = "the browser tests need chromium: apt-get install chromium fonts-dejavu-core"
        pytest.fail(told) if os.environ.get("CI") else pytest.skip(told)
    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def window(chromium: Browser, shared_penstock: Penstock) -> Iterator[Open]:
    """Opens a window of its own browser; signed in, unless it is told not to be. No page may complain."""
    contexts, complaints = [], []

    def opened(*, signed_in: bool = True, **options: Any) -> Page:
        context = chromium.new_context(base_url=shared_penstock.client["url"], **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if signed_in:
            page.goto(link(shared_penstock))
            expect(page.get_by_role("heading", name="Apps")).to_be_visible()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in complaints if "status of 40" not in text] == []


def link(penstock: Penstock) -> str:
    return penstock.run("dashboard").stdout.strip()


def awaiting(penstock: Penstock, name: str) -> int:
    """A run of a new app that waits for approval, after one that is live."""
    repository = penstock.add(name)
    repository.commit(static("one"))
    assert repository.push().code == 0
    repository.commit(static("two", approve="true"))
    assert "NOT LIVE" in repository.push().said
    return int(penstock.api(f"/runs?app={name}")[0]["id"])


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.innerText"))


def tab_to(page: Page, name: str) -> None:
    """As somebody does who has no mouse."""
    for _ in range(60):
        if focused(page) == name:
            return
        page.keyboard.press("Tab")
    pytest.fail(f"the keyboard does not get to {name!r}")


@contextmanager
def site(html: str) -> Iterator[str]:
    """A page of somebody else, on this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="another site")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# -- signing in


def test_a_link_signs_in_once_and_leaves_no_trace(shared_penstock: Penstock, window: Open) -> None:
    address = link(shared_penstock)
    invitation = address.partition("#")[2]
    page = window(signed_in=False)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(f"{request.url} {request.all_headers()}"))
    page.goto(address)
    expect(page.get_by_role("heading", name="Apps")).to_be_visible()
    assert invitation not in page.url
    assert invitation not in "".join(asked)
    assert invitation not in shared_penstock.log()
    assert page.evaluate("document.cookie") == ""
    page.go_back()
    assert invitation not in page.url
    other = window(signed_in=False)
    other.goto(address)
    expect(other.get_by_role("alert")).to_contain_text("used already")


def test_where_nobody_looks_no_link_is_printed(shared_penstock: Penstock) -> None:
    log = shared_penstock.folder / "up.log"
    until(lambda: "is up" in log.read_text())  # it answers before it says so
    assert "sign-in" not in log.read_text()


def test_signing_in_and_out_by_keyboard(shared_penstock: Penstock, window: Open) -> None:
    shared_penstock.add("keys")
    page = window(signed_in=False)
    page.goto("/apps/keys")
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type(shared_penstock.run("token", "--manage", "--name", "bob").stdout.strip())
    page.keyboard.press("Enter")
    expect(page).to_have_title("keys")
    expect(page.locator(".who")).to_contain_text("bob")
    tab_to(page, "Sign out")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/apps/keys")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_link_on_another_site_leads_to_the_page_without_a_second_sign_in(
    shared_penstock: Penstock, window: Open
) -> None:
    shared_penstock.add("linked")
    page = window()
    url = shared_penstock.client["url"] + "/apps/linked"
    with site(f'<a href="{url}">see it</a>') as elsewhere:
        page.goto(elsewhere.replace("127.0.0.1", "elsewhere.localhost"))
        page.get_by_role("link").click()
        expect(page.get_by_role("heading", name="linked")).to_be_visible()
        page.context.clear_cookies()
        page.goto(elsewhere.replace("127.0.0.1", "elsewhere.localhost"))
        page.get_by_role("link").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_page_whose_session_ends_asks_to_sign_in_again(shared_penstock: Penstock, window: Open) -> None:
    shared_penstock.add("short")
    page = window(signed_in=False)
    page.goto("/apps/short")
    page.get_by_label("Token").fill(
        shared_penstock.run("token", "--manage", "--expires", "6s").stdout.strip()
    )
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="short")).to_be_visible()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


# -- watching and pressing


def test_two_windows_see_a_run_move_and_one_approves_it(shared_penstock: Penstock, window: Open) -> None:
    repository = shared_penstock.add("shop")
    repository.commit(service("one", approve="true"))
    board, other = window(), window()
    push = repository.pushing()
    card = board.get_by_role("article", name="shop")
    expect(card).to_contain_text("awaits approval")
    assert "NOT LIVE" in wait_for_end(push).said
    run = shared_penstock.api("/runs?app=shop")[0]["id"]
    other.goto(f"/runs/{run}")
    expect(other.locator(".who")).to_contain_text("live")
    tab_to(other, "Approve")
    other.keyboard.press("Enter")
    expect(other.get_by_role("heading", level=1)).to_contain_text("succeeded")
    expect(other.locator(".stages li", has_text="Approve")).to_contain_text("approved by")
    expect(card).to_contain_text("v1")
    expect(card.get_by_role("button")).to_have_count(0)


def test_what_another_has_approved_already_is_told(shared_penstock: Penstock, window: Open) -> None:
    run = awaiting(shared_penstock, "twice")
    late = window(java_script_enabled=False, signed_in=False)
    late.goto(f"/runs/{run}")
    late.get_by_label("Token").fill(shared_penstock.client["token"])
    late.get_by_role("button", name="Sign in").click()
    shared_penstock.run("approve", str(run))
    late.get_by_role("button", name="Approve").click()
    expect(late.get_by_role("alert")).to_contain_text("nothing to approve")
    late.get_by_role("link", name="See how it is now").click()
    expect(late.get_by_role("heading", level=1)).to_contain_text(f"Run {run}")


def test_back_to_a_release_and_forward_again_while_another_window_looks_on(
    shared_penstock: Penstock, window: Open
) -> None:
    repository = shared_penstock.add("undo")
    for version in ("one", "two"):
        repository.commit(static(version))
        assert repository.push().code == 0
    board, other = window(), window()
    other.goto("/apps/undo")
    tab_to(other, "Roll back to v1")
    other.keyboard.press("Enter")
    expect(other.get_by_role("heading", level=1)).to_contain_text("succeeded")
    expect(other.locator(".facts")).to_contain_text("rollback to v1")
    card = board.get_by_role("article", name="undo")
    expect(card).to_contain_text("v1 stays after a rollback")
    card.get_by_role("button", name="Unpin undo").click()
    expect(board.get_by_role("heading", level=1)).to_contain_text("succeeded")
    board.goto("/apps/undo")
    expect(board.get_by_role("row", name="v3")).to_contain_text("live")
    expect(board.get_by_role("button", name="Unpin undo")).to_have_count(0)


def test_news_take_neither_the_focus_nor_the_button_under_a_finger(
    shared_penstock: Penstock, window: Open
) -> None:
    run = awaiting(shared_penstock, "steady")
    other = shared_penstock.add("noise")
    page = window()
    expect(page.locator("#link")).to_have_text("live")
    tab_to(page, f"Approve run {run}")
    other.commit(static("one"))
    assert other.push().code == 0
    expect(page.get_by_role("article", name="noise")).to_contain_text("v1")
    assert focused(page) == f"Approve run {run}"
    page.get_by_role("button", name=f"Approve run {run}").hover()
    page.mouse.down()
    other.commit(static("two"))
    assert other.push().code == 0
    page.mouse.up()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Run {run}")
    assert shared_penstock.finished(run)["run"]["status"] == "succeeded"


def test_who_looks_on_finds_no_buttons(shared_penstock: Penstock, window: Open) -> None:
    run = awaiting(shared_penstock, "watched")
    page = window(signed_in=False)
    page.goto(f"/runs/{run}")
    page.get_by_label("Token").fill(shared_penstock.run("token").stdout.strip())
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("awaits approval")
    assert page.get_by_role("button").all_inner_texts() == ["Sign out"]


# -- small, dark, without JavaScript


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_narrow_screen_nothing_is_cut_off(shared_penstock: Penstock, window: Open, scheme: str) -> None:
    run = awaiting(shared_penstock, f"a-name-that-is-as-long-as-one-may-{scheme}")
    page = window(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    app = shared_penstock.api(f"/runs/{run}")["run"]["app"]
    for path in ("/", f"/apps/{app}", f"/runs/{run}", "/sign-in", "/runs/999"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
        for button in page.get_by_role("button").all():
            box = button.bounding_box()
            assert box is not None
            assert box["height"] >= 24, "WCAG 2.2, 2.5.8: targets have at least 24 by 24 pixels"
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 360


def test_without_javascript_the_buttons_work(shared_penstock: Penstock, window: Open) -> None:
    run = awaiting(shared_penstock, "plain")
    page = window(signed_in=False, java_script_enabled=False)
    page.goto(f"/runs/{run}")
    page.get_by_label("Token").fill(shared_penstock.client["token"])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Approve").click()
    expect(page).to_have_url(f"{shared_penstock.client['url']}/runs/{run}")
    assert shared_penstock.finished(run)["run"]["status"] == "succeeded"
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_contain_text("succeeded")


# -- somebody else's page in the same browser; on another port it is the same site to cookies


def test_another_page_cannot_press_a_button(shared_penstock: Penstock, window: Open) -> None:
    run = awaiting(shared_penstock, "forged")
    page = window()
    form = (
        f'<form method="post" action="{shared_penstock.client["url"]}/runs/{run}/approve">'
        '<input name="form" value="guess"></form><script>document.forms[0].submit()</script>'
    )
    with site(form) as evil:
        page.goto(evil)
        expect(page.get_by_role("alert")).to_contain_text("comes from another site")
    assert shared_penstock.api(f"/runs/{run}")["run"]["status"] == "awaiting"


def test_another_page_cannot_frame_the_dashboard_nor_read_it(shared_penstock: Penstock, window: Open) -> None:
    page = window()
    url = shared_penstock.client["url"]
    context = page.context.new_page()  # whose complaints are what is wanted
    with site(f'<iframe src="{url}/"></iframe>') as evil:
        context.goto(evil)
        expect(context.frame_locator("iframe").get_by_text("refused to connect").first).to_be_attached()
        read = f"fetch('{url}/', {{credentials: 'include'}}).then(() => 'read', () => 'refused')"
        assert context.evaluate(read) == "refused"
