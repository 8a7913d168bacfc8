"""A bar chart as SVG, readable on light and dark pages alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

WIDTH, LEFT, RIGHT, BAR, GAP = 760, 150, 160, 20, 8
"""Pixels: the width of the chart, of the names and of the figures, a bar's height, a gap's."""

GREY, OURS, THEIRS = "#787878", "#2f9e63", "#5b8db8"
"""The grey stands out from white and from black alike, at 4.4 to 1."""


def draw(groups: Mapping[str, Mapping[str, float]], caption: str) -> str:
    """Return a chart of microseconds of CPU per delivery, with a group of bars for each row.

    Each group has a bar for each server, ours first, on a logarithmic scale.
    """
    values = [value for bars in groups.values() for value in bars.values() if value > 0]
    lowest, highest = (
        math.floor(math.log10(min(values, default=0.1)) - 0.3),
        math.log10(max(values, default=1.0)),
    )
    parts: list[str] = []
    y = 20

    def text(x: float, words: str, more: str = "") -> None:
        parts.append(f'<text x="{x:.0f}" y="{y}" {more}>{escape(words)}</text>')

    text(
        0,
        "Server CPU per delivery, in microseconds: shorter is better (logarithmic scale)",
        'font-weight="bold"',
    )
    for title, bars in groups.items():
        y += 36
        text(0, title)
        y += GAP
        ours = next(iter(bars.values()), 0.0)
        for place, (name, value) in enumerate(bars.items()):
            length = (
                (math.log10(value) - lowest) / (highest - lowest) * (WIDTH - LEFT - RIGHT)
                if value > 0
                else 0
            )
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{length:.0f}" height="{BAR}" rx="2" '
                f'fill="{THEIRS if place else OURS}"/>'
            )
            y += BAR - 5
            text(LEFT - 8, name, 'text-anchor="end"')
            text(
                LEFT + length + 8,
                f"{value:.3g}" + f" ({value / ours:.3g} times ours)" * bool(place),
            )
            y += GAP + 5
    y += 28
    text(0, caption, 'font-size="11"')
    size = f'viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" height="{y + 10}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}'
    return "\n".join(
        [f'{head} font-family="sans-serif" font-size="13" fill="{GREY}">', *parts, "</svg>", ""]
    )
