"""The results as a picture: one small chart for each figure, a bar for each who was measured."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from harness import Result

CHARTS = {
    "idle_checkout_ns": "Checkout and return of an idle connection, ns",
    "contended_qps": "SELECT 1 by 200 tasks on 20 connections, 1/s",
    "queries_per_task_max_min": "Most to least served task, times",
    "wait_p99_vs_own_pace": "p99 wait to an even wait at its own pace",
    "fill_20_ms": "20 connections at 50 ms each, ms",
    "idle_wait_during_fill_ms": "Wait for an idle connection meanwhile, ms",
    "kill_all_user_errors": "Errors of 100 users after all were killed",
    "outage_connect_attempts": "Connects tried in an outage of 5 s",
    "recovery_s": "Until 90 % of the rate is back, s",
}

COLUMNS, WIDTH, HEIGHT, ROW = 3, 330, 170, 18
LABEL, BAR = 96, 150
COLORS = {"ours": "#0b7285", "floor": "#adb5bd"}
OTHERS = "#f08c00"

STYLE = "text{font:12px system-ui,sans-serif;fill:#495057} .title{font-weight:600;fill:#212529}"


def plot(results: Sequence[Result]) -> str:
    """An SVG document."""
    found = {result.name: result for result in results}
    shown = [(title, found[name]) for name, title in CHARTS.items() if name in found]
    rows = -(-len(shown) // COLUMNS)
    width, height = COLUMNS * WIDTH, rows * HEIGHT
    charts = "".join(
        f'<g transform="translate({number % COLUMNS * WIDTH + 10},{number // COLUMNS * HEIGHT + 20})">'
        f"{_chart(title, result)}</g>\n"
        for number, (title, result) in enumerate(shown)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">\n'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n{charts}</svg>\n'
    )


def _chart(title: str, result: Result) -> str:
    bars = _bars(result)
    longest = max(value for _, value in bars) or 1.0
    drawn = [
        _bar(number, name, value, BAR * value / longest) for number, (name, value) in enumerate(bars, start=1)
    ]
    better = (
        f'<text x="{LABEL}" y="{ROW * (len(bars) + 1) + 4}" opacity="0.7">{result.better} is better</text>'
    )
    return f'<text class="title">{escape(title)}</text>' + "".join(drawn) + better


def _bars(result: Result) -> list[tuple[str, float]]:
    measured = {"ours": result.value, "floor": result.floor, **(result.peers or {})}
    return [(name, value) for name, value in measured.items() if value is not None]


def _bar(number: int, name: str, value: float, length: float) -> str:
    y = ROW * number
    color = COLORS.get(name, OTHERS)
    return (
        f'<text x="{LABEL - 6}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{LABEL}" y="{y - 7}" width="{max(length, 1):.1f}" height="13" fill="{color}"/>'
        f'<text x="{LABEL + max(length, 1) + 5:.1f}" y="{y + 4}">{_figure(value)}</text>'
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
