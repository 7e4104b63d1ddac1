"""Reporter jira: the wiki markup of Jira and Confluence."""

from __future__ import annotations

import re
from collections.abc import Sequence

from xenm2p.report.markup import Markup

_SPECIAL = re.compile(r"([\\*?{}\[\]|+^~!@]|(?<!\w)_|_(?!\w))")
# A hyphen strikes text out where a word begins with it.
_STRIKE = re.compile(r"(?<!\w)-(?=\S)")


def escape(text: str) -> str:
    """`text` so that Jira shows it as it is."""
    return _STRIKE.sub(r"\\-", _SPECIAL.sub(r"\\\1", text))


def _items(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"* *{key}*: {text}" for key, text in items)


def _lines(lines: Sequence[str]) -> str:
    return lines[0] if len(lines) == 1 else "\n".join(f"* {line}" for line in lines)


def _verbatim(lines: Sequence[str]) -> str:
    # {noformat} cannot be escaped inside of itself.
    return "\n".join(["{noformat}", *(line.replace("{noformat}", "{no format}")
                                      for line in lines), "{noformat}"])


MARKUP = Markup(
    name="jira", tablefmt="jira", escape=escape, cell_escape=escape,
    heading=lambda text: f"h3. {text}", items=_items, lines=_lines, verbatim=_verbatim)
