"""A self-contained page of HTML: headings, texts, tables and pictures."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import Any

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; font-size: 12.5px;
      line-height: 1.35; }
table { border-collapse: collapse; font-size: 13px; }
th, td { padding: 0.15rem 0.7rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; } img { max-width: 100%; }
figcaption, .note { color: #555; font-size: 13px; }
.wide { overflow-x: auto; }
"""


class Page:
    """A page that grows from top to bottom.

    Args:
        title: the title.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts: list[str] = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def note(self, text: str) -> None:
        """Adds a paragraph."""
        self._parts.append(f'<p class="note">{escape(text)}</p>')

    def text(self, text: str) -> None:
        """Adds a text with its line breaks."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def table(self, frame: Any) -> None:
        """Adds a data frame."""
        html = frame.to_html(float_format="{:.3g}".format, border=0, escape=True)
        self._parts.append(f'<div class="wide">{html}</div>')

    def picture(self, figure: Any, caption: str) -> None:
        """Adds a figure of Matplotlib, and closes it."""
        from matplotlib import pyplot as plt

        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        plt.close(figure)
        code = base64.b64encode(buffer.getvalue()).decode()
        self._parts.append(
            f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{code}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        """The page."""
        body = "\n".join(self._parts)
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{escape(self._title)}</title><style>{STYLE}</style></head>\n"
            f"<body>{body}</body></html>\n"
        )
