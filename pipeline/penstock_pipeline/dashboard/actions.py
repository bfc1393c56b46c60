"""The buttons: each a plain form, answered by the page of the run that it is about or has set off."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import RedirectResponse

from ..model import Run
from .paths import RunId, number
from .sign_in import Signed
from .view import Orders


def add_actions(routes: APIRouter, orders: Orders) -> None:
    """`routes` has to see to it that the form is genuine and its sender may act."""
    _add_to_runs(routes, orders)
    _add_to_apps(routes, orders)


def _add_to_runs(routes: APIRouter, orders: Orders) -> None:
    @routes.post("/runs/{run}/approve")
    async def approve(run_id: RunId, signed: Signed) -> RedirectResponse:
        return _to(await orders.approve(run_id, by=signed.who.name))

    @routes.post("/runs/{run}/cancel")
    async def cancel(run_id: RunId, signed: Signed) -> RedirectResponse:
        return _to(await orders.cancel(run_id, by=signed.who.name))

    @routes.post("/runs/{run}/retry")
    async def retry(run_id: RunId, signed: Signed) -> RedirectResponse:
        return _to(await orders.retry(run_id, again=None, by=signed.who.name))


def _add_to_apps(routes: APIRouter, orders: Orders) -> None:
    @routes.post("/apps/{name}/rollback/{version}")
    async def roll_back(name: str, version: str, signed: Signed) -> RedirectResponse:
        wanted = number(version, f"{name} has no release v{version}")
        return _to(await orders.roll_back(name, version=wanted, by=signed.who.name))

    @routes.post("/apps/{name}/unpin")
    async def unpin(name: str, signed: Signed) -> RedirectResponse:
        return _to(await orders.unpin(name, by=signed.who.name))

    @routes.post("/apps/{name}/redeploy")
    async def redeploy(name: str, signed: Signed) -> RedirectResponse:
        return _to(await orders.redeploy(name, by=signed.who.name))

    @routes.post("/apps/{name}/refresh")
    async def refresh(name: str, signed: Signed) -> RedirectResponse:
        return _to(await orders.refresh(name, by=signed.who.name))


def _to(run: Run) -> RedirectResponse:
    return RedirectResponse(f"/runs/{run.id}", 303)
