"""Draws the imports between the parts of the package into the architecture page.

Run ``python docs/draw_imports.py`` after a part has come or gone, or imports another one. The
places below say where a part stands; the arrows follow from the imports.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from test_architecture import LEAVES, arrows_of, imports  # noqa: E402

WIDTH, HEIGHT = 104, 30
PLACES = {
    "estimators": (170, 0),
    "reports": (310, 0),
    "calibration": (440, 0),
    "selection": (60, 1),
    "prediction": (560, 1),
    "loadings": (440, 2),
    "checks": (440, 3),
    "items": (290, 4),
    "guides": (440, 4),
    "losses": (360, 5),
    "plots": (90, 6),
    "models": (330, 6),
    "coefficients": (520, 6),
    "evidence": (390, 7),
    "joint": (540, 7),
    "diagnostics": (160, 8),
    "distributions": (280, 8),
    "deq": (450, 8),
    "families": (360, 9),
    "links": (360, 10),
}
"""The middle of each part, and its row from the top."""


def middle(part: str) -> tuple[float, float]:
    """The middle of a part's box."""
    x, row = PLACES[part]
    return x, 19 + 58 * row


def at_edge(part: str, towards: str) -> tuple[float, float]:
    """Where the line from the middle of one part to another one leaves its box."""
    (x, y), (to_x, to_y) = middle(part), middle(towards)
    across, down = to_x - x, to_y - y
    reach = min(
        WIDTH / 2 / abs(across) if across else 9.0, (HEIGHT / 2 + 1) / abs(down) if down else 9.0
    )
    return x + reach * across, y + reach * down


def spoken(arrows: set[tuple[str, str]], parts: list[str]) -> str:
    """The arrows in words, for readers who do not see the picture."""
    sentences = []
    for part in parts:
        others = sorted(other for one, other in arrows if one == part)
        sentences.append(f"{part} imports {' and '.join(others) or 'none of them'}")
    return ". ".join(sentences).replace(" and ", ", ") + "."


def picture() -> str:
    """The picture as SVG."""
    graph = {part: others - LEAVES for part, others in imports().items() if part not in LEAVES}
    arrows, parts = arrows_of(graph), [part for part in PLACES if part in graph]
    missing = graph.keys() - PLACES.keys()
    if missing:
        raise SystemExit(f"give {', '.join(sorted(missing))} a place in PLACES")
    ends = [(at_edge(one, other), at_edge(other, one)) for one, other in sorted(arrows)]
    lines = [f'    <path d="M{a:.0f} {b:.0f} L{c:.0f} {d:.0f}"/>' for (a, b), (c, d) in ends]
    boxes = [
        f'    <rect x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{WIDTH}" '
        f'height="{HEIGHT}" rx="5"/>'
        for x, y in map(middle, parts)
    ]
    names = [
        f'    <text x="{middle(part)[0]}" y="{middle(part)[1] + 5:.0f}">{part}</text>'
        for part in parts
    ]
    bottom = max(middle(part)[1] for part in parts) + HEIGHT / 2 + 4
    label = spoken(arrows, parts)
    return "\n".join(
        [
            f'<svg viewBox="0 0 660 {bottom:.0f}" width="660" role="img" '
            f'aria-label="Import directions. {label}">',
            "  <defs>",
            '    <marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
            'markerHeight="8" orient="auto">',
            '      <path d="M0 0 L8 4 L0 8 z" fill="currentColor"/>',
            "    </marker>",
            "  </defs>",
            '  <g stroke="currentColor" stroke-width="1.2" fill="none" marker-end="url(#tip)">',
            *lines,
            "  </g>",
            '  <g stroke-width="1">',
            *boxes,
            "  </g>",
            '  <g text-anchor="middle">',
            *names,
            "  </g>",
            "</svg>",
        ]
    )


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    drawn = re.sub(r"<svg viewBox.*?</svg>", lambda _: picture(), page, count=1, flags=re.DOTALL)
    PAGE.write_text(drawn, encoding="utf-8")
