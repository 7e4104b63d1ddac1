"""Reporter rst: reStructuredText, as in the kernel's Documentation/."""

from __future__ import annotations

import re
from collections.abc import Sequence

from xenm2p.report.markup import Markup

# An underscore inside of a word is one; at its end it makes a reference.
_SPECIAL = re.compile(r"([\\`*|]|(?<!\w)_|_(?!\w))")


def escape(text: str) -> str:
    """`text` so that reStructuredText shows it as it is."""
    escaped = _SPECIAL.sub(r"\\\1", text)
    return "\\" + escaped if re.match(r"([-+.:#=]|\d+\.)(\s|$|\.)", escaped) else escaped


def _heading(text: str) -> str:
    return f"{text}\n{'=' * len(text)}"


def _items(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f":{key}: {text}" for key, text in items)


def _lines(lines: Sequence[str]) -> str:
    return lines[0] if len(lines) == 1 else "\n".join(f"- {line}" for line in lines)


def _verbatim(lines: Sequence[str]) -> str:
    return "\n".join(["::", "", *(f"  {line}".rstrip() for line in lines)])


MARKUP = Markup(
    name="rst", tablefmt="rst", escape=escape, cell_escape=escape,
    heading=_heading, items=_items, lines=_lines, verbatim=_verbatim)
