"""Reporter plain: ASCII without tabs, at most 72 columns, for terminals and mailing lists."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from xenm2p.report.markup import Markup

WIDTH = 72
GAP = 2  # blanks between the keys of items and their text


def ascii_only(text: str) -> str:
    """`text` with everything outside ASCII as an escape."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


def _lines(lines: Sequence[str]) -> str:
    """Lines wrapped to the width; continuations stand four in, like a mail's quotes do."""
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent="    ", break_on_hyphens=False)
        for line in lines)


def _items(items: Sequence[tuple[str, str]]) -> str:
    column = max((len(key) for key, _ in items), default=0) + GAP
    return "\n".join(
        textwrap.fill(f"{key:{column}}{text}", WIDTH, subsequent_indent=" " * column,
                      break_on_hyphens=False)
        for key, text in items)


def _verbatim(lines: Sequence[str]) -> str:
    return "\n".join(f"  {ascii_only(line)}" for line in lines)


MARKUP = Markup(
    name="plain", tablefmt="simple", escape=ascii_only, cell_escape=ascii_only,
    heading=lambda text: textwrap.fill(text, WIDTH), items=_items, lines=_lines,
    verbatim=_verbatim, width=WIDTH)
