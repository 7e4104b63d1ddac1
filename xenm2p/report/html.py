"""Reporter html: one page without scripts, styles from elsewhere or other references."""

from __future__ import annotations

import html
from collections.abc import Sequence

from xenm2p.report.markup import Markup

_OPENING = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>xenm2p</title>
<style>
body { font-family: sans-serif; margin: 2em; }
table { border-collapse: collapse; font-family: monospace; }
th, td { padding: 0.1em 0.8em; text-align: left; border-bottom: 1px solid #ccc; }
</style></head>
<body>
"""


def _items(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join(["<dl>", *(f"<dt>{key}</dt><dd>{text}</dd>" for key, text in items),
                      "</dl>"])


def _lines(lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return f"<p>{lines[0]}</p>"
    return "\n".join(["<ul>", *(f"<li>{line}</li>" for line in lines), "</ul>"])


def _verbatim(lines: Sequence[str]) -> str:
    return "<pre>\n" + "\n".join(map(html.escape, lines)) + "\n</pre>"


MARKUP = Markup(
    name="html", tablefmt="html", escape=html.escape,
    cell_escape=str,  # tabulate escapes the cells of its html tables
    heading=lambda text: f"<h1>{text}</h1>", items=_items, lines=_lines, verbatim=_verbatim,
    opening=_OPENING, closing="</body>\n</html>\n")
