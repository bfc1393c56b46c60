"""Every forge's webhook, delivered a hundred times at once, takes the registered repository live once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from plugins.penstock import Answer, Penstock, Repository, static
from plugins.senders import SECRET, SENDERS, Sender, push

APP_NUMBER = iter(range(1, 1000))


@pytest.mark.parametrize("sender", SENDERS, ids=lambda one: f"{one.name} by {one.proof}")
def test_a_hundred_deliveries_at_once_are_one_run_that_goes_live(
    shared_penstock: Penstock, sender: Sender
) -> None:
    penstock, name = shared_penstock, f"forged{next(APP_NUMBER)}"
    upstream = Repository(penstock.folder / name)
    commit = upstream.commit(static(f"from {sender.name}"))
    penstock.api("/apps", {"name": name, "repository": str(upstream.folder), "webhook_secret": SECRET})
    url, body = penstock.urls(name)["webhooks"][sender.name], push(sender, after=commit, checkout_sha=commit)

    def deliver(_: int) -> Answer:
        return penstock.ask(url, body, headers=sender.headers(body, "d-1"))

    with ThreadPoolExecutor(20) as forge:
        answers = list(forge.map(deliver, range(100)))
    assert sorted(answer.status for answer in answers) == [200] * 99 + [202]
    (run,) = {answer.json()["run"] for answer in answers}
    assert penstock.finished(run)["run"]["status"] == "succeeded"
    assert [one["id"] for one in penstock.api(f"/runs?app={name}")] == [run]
    assert penstock.ask(penstock.urls(name)["app"]).body.decode() == f"<h1>from {sender.name}</h1>\n"
