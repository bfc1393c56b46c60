"""Forges are told how commits stand, as each of them documents it, and never something that is past."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from plugins import forges, recorded
from plugins.desk import Desk
from plugins.forges import TOKEN, Forge
from plugins.house import eventually
from plugins.receivers import Receiver

from penstock_pipeline.errors import Invalid, SubscriberUnavailable
from penstock_pipeline.model import App, RunStatus, StageName
from penstock_pipeline.store import SqliteStore, queue, registry
from penstock_pipeline.store.subscriptions import Subscription
from penstock_pipeline.subscribers.statuses import FORGES, repository_url

COMMIT = "4f51232" + "a" * 33
KINDS = {"github": forges.github, "gitlab": forges.gitlab, "gitea": forges.gitea, "forgejo": forges.gitea}


class At(Receiver):
    """A forge at an address."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.forge: Forge = KINDS[kind]()
        self.respond = self.forge.answer

    @property
    def shown(self) -> list[str]:
        return list(self.forge.statuses.values())

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.forge.history]

    async def told(self, desk: Desk, app: str = "shop") -> Subscription:
        return await desk.subscribers.add_statuses(
            app, forge=self.kind, token=TOKEN, api=None, repository=None, by="ann"
        )


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Desk.over(SqliteStore(tmp_path / "penstock.db"), tmp_path) as desk:
        yield desk


@pytest.fixture(params=sorted(KINDS))
async def forge(request: pytest.FixtureRequest) -> AsyncIterator[At]:
    async with At(request.param).serving() as serving:
        assert isinstance(serving, At)
        yield serving


@pytest.fixture
async def github() -> AsyncIterator[At]:
    async with At("github").serving() as serving:
        assert isinstance(serving, At)
        yield serving


async def shop_at(desk: Desk, forge: At) -> App:
    """An app whose repository is there."""
    return await desk.store.write(
        registry.add,
        name="shop",
        branch="main",
        port=7100,
        repository=forge.url.replace("/hook", "/you/shop.git"),
    )


async def test_a_push_is_pending_and_then_green(desk: Desk, forge: At) -> None:
    shop = await shop_at(desk, forge)
    subscription = await forge.told(desk)
    async with desk.delivering():
        run = await recorded.accepted(desk.store, shop, COMMIT)
        await eventually(lambda: forge.shown == ["pending"])
        await recorded.succeeded(desk.store, run)
        await eventually(lambda: desk.settled(subscription))
    assert list(forge.forge.statuses) == [(COMMIT, "penstock/shop")]
    assert forge.states == ["pending", "success"]
    assert forge.forge.history[-1][1] == "v1 is live on every edge"
    assert forge.received[0].document["target_url"] == f"http://penstock.test/runs/{run.id}"


async def test_a_red_push_says_why_in_a_line_that_fits(desk: Desk, forge: At) -> None:
    shop = await shop_at(desk, forge)
    subscription = await forge.told(desk)
    run = await recorded.accepted(desk.store, shop, COMMIT)
    await recorded.failed(
        desk.store, run, StageName.TEST, "3 tests are red\x1b[31m " + "x" * 300 + "\nsecond"
    )
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))
    assert forge.shown == ["failed" if forge.kind == "gitlab" else "failure"]
    description = forge.forge.history[-1][1]
    assert description.startswith("3 tests are red x")
    assert len(description) == 140


@pytest.mark.parametrize("ending", [RunStatus.CANCELLED, RunStatus.SUPERSEDED, RunStatus.IGNORED])
async def test_no_ending_leaves_a_commit_pending(desk: Desk, forge: At, ending: RunStatus) -> None:
    shop = await shop_at(desk, forge)
    subscription = await forge.told(desk)
    run = await recorded.accepted(desk.store, shop, COMMIT)
    await recorded.began(desk.store, run, StageName.CHECKOUT)
    async with desk.delivering():
        await eventually(lambda: forge.shown == ["pending"])
        await desk.store.write(queue.finish, run.id, ending, superseded_by=7)
        await eventually(lambda: desk.settled(subscription))
    red = "canceled" if forge.kind == "gitlab" else "error"
    assert forge.shown == ["success" if ending is RunStatus.IGNORED else red]


async def test_what_waits_for_approval_says_so(desk: Desk, forge: At) -> None:
    shop = await shop_at(desk, forge)
    subscription = await forge.told(desk)
    run = await recorded.accepted(desk.store, shop, COMMIT)
    await recorded.began(desk.store, run, StageName.UPLOAD)
    async with desk.delivering():
        await eventually(lambda: forge.shown == ["pending"])
        await desk.store.write(queue.finish, run.id, RunStatus.AWAITING)
        await eventually(lambda: desk.settled(subscription))
    assert forge.forge.history[-1][1] == f"not live: run {run.id} waits for approval"
    assert forge.shown == ["running" if forge.kind == "gitlab" else "pending"]


async def test_what_is_told_late_is_what_is_true_by_then(desk: Desk, forge: At) -> None:
    """Twice the same at GitLab, which refuses that: it was told, and nothing waits or dies for it."""
    shop = await shop_at(desk, forge)
    subscription = await forge.told(desk)
    run = await recorded.accepted(desk.store, shop, COMMIT)
    await recorded.succeeded(desk.store, run)
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))
    assert set(forge.states) == {"success"}


async def test_a_status_that_was_told_before_is_known(desk: Desk, forge: At) -> None:
    shop = await shop_at(desk, forge)
    subscription = await forge.told(desk)
    forge.forge.statuses[COMMIT, "penstock/shop"] = "pending"
    await recorded.accepted(desk.store, shop, COMMIT)
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))
    assert len(forge.received) == 1


async def test_a_retry_makes_the_commit_green_again(desk: Desk, github: At) -> None:
    shop = await shop_at(desk, github)
    subscription = await github.told(desk)
    run = await recorded.accepted(desk.store, shop, COMMIT)
    await recorded.failed(desk.store, run, StageName.CHECKOUT, "no network")
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))
        again = await desk.store.write(queue.retry, await desk.run(run), StageName.CHECKOUT, actor="ben")
        await eventually(lambda: github.shown == ["pending"])
        await recorded.succeeded(desk.store, again)
        await eventually(lambda: desk.settled(subscription))
    assert github.shown == ["success"]


async def test_a_rollback_says_nothing_of_a_commit(desk: Desk, github: At) -> None:
    shop = await shop_at(desk, github)
    run = await recorded.accepted(desk.store, shop, COMMIT)
    release = await recorded.succeeded(desk.store, run)
    subscription = await github.told(desk)
    await desk.store.write(queue.roll_back, shop, release, actor="ben")
    async with desk.delivering():
        await eventually(lambda: desk.settled(subscription))
    assert github.received == []


async def test_a_test_asks_for_the_repository_with_the_token(desk: Desk, forge: At) -> None:
    await shop_at(desk, forge)
    subscription = await forge.told(desk)
    await desk.subscribers.test(subscription.id)
    assert [one.method for one in forge.received] == ["GET"]
    forge.forge.token = {"authorization": "another", "private-token": "another"}
    with pytest.raises(SubscriberUnavailable, match="answers 401"):
        await desk.subscribers.test(subscription.id)


@pytest.mark.parametrize(
    ("kind", "cloned", "url"),
    [
        ("github", "https://github.com/you/shop.git", "https://api.github.com/repos/you/shop"),
        ("github", "git@github.com:you/shop.git", "https://api.github.com/repos/you/shop"),
        ("github", "ssh://git@github.com:22/you/shop", "https://api.github.com/repos/you/shop"),
        ("github", "https://ghe.example.com/you/shop/", "https://ghe.example.com/api/v3/repos/you/shop"),
        ("gitlab", "https://gitlab.com/a/b/shop.git", "https://gitlab.com/api/v4/projects/a%2Fb%2Fshop"),
        ("gitlab", "http://ann:pw@10.0.0.1:8080/a/b", "http://10.0.0.1:8080/api/v4/projects/a%2Fb"),
        ("gitea", "ssh://git@git.example.com:2222/a/b.git", "https://git.example.com/api/v1/repos/a/b"),
        ("forgejo", "https://codeberg.org/a/b.git", "https://codeberg.org/api/v1/repos/a/b"),
    ],
)
def test_where_to_tell_follows_from_where_to_fetch(kind: str, cloned: str, url: str) -> None:
    assert repository_url(FORGES[kind], api=None, repository=None, cloned=cloned) == url


def test_where_to_tell_can_be_said() -> None:
    gitea = FORGES["gitea"]
    said = repository_url(gitea, api="http://10.1.1.1/api/v1/", repository="a/b", cloned="/srv/shop.git")
    assert said == "http://10.1.1.1/api/v1/repos/a/b"
    assert "/repos/c/d" in repository_url(gitea, api=None, repository="c/d", cloned="https://x.example/a/b")


@pytest.mark.parametrize(
    "cloned", [None, "/srv/git/shop.git", "file:///srv/git/shop.git", "https://x.example/shop"]
)
def test_what_does_not_tell_is_asked_for(cloned: str | None) -> None:
    with pytest.raises(Invalid, match="--repository OWNER/NAME"):
        repository_url(FORGES["gitea"], api=None, repository=None, cloned=cloned)


@pytest.mark.parametrize(
    "repository", ["shop", "../..", "a/b?x=1", "a/b#c", "a b/c", "a//b", "a/b\r\nX: 1", "a/.."]
)
def test_a_repository_that_is_none_is_refused(repository: str) -> None:
    with pytest.raises(Invalid):
        repository_url(FORGES["github"], api=None, repository=repository, cloned="https://github.com/a/b")


@pytest.mark.parametrize("token", ["", "two words", "line\r\nX-Evil: 1", "schlüssel"])
async def test_a_token_that_is_none_is_refused(desk: Desk, github: At, token: str) -> None:
    await shop_at(desk, github)
    with pytest.raises(Invalid, match="token"):
        await desk.subscribers.add_statuses(
            "shop", forge="github", token=token, api=None, repository=None, by="ann"
        )


async def test_a_forge_that_nobody_knows_is_refused(desk: Desk, github: At) -> None:
    await shop_at(desk, github)
    with pytest.raises(Invalid, match="none of github, gitlab, gitea, forgejo"):
        await desk.subscribers.add_statuses(
            "shop", forge="bitbucket", token=TOKEN, api=None, repository=None, by="ann"
        )
