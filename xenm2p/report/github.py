"""Reporter github: GitHub-flavoured Markdown, for issues."""

from __future__ import annotations

import re
from collections.abc import Sequence

from xenm2p.report.markup import Markup

# Markdown's own characters, those of HTML, and @, which would call people. An underscore
# inside of a word is one.
_SPECIAL = re.compile(r"([\\`*{}\[\]<>|~@]|(?<!\w)_|_(?!\w))")


def escape(text: str) -> str:
    """`text` so that Markdown shows it as it is."""
    escaped = _SPECIAL.sub(r"\\\1", text)
    return re.sub(r"^([-+#]|\d+\.)(?=\s)", r"\\\1", escaped)


def _items(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"- **{key}**: {text}" for key, text in items)


def _lines(lines: Sequence[str]) -> str:
    return lines[0] if len(lines) == 1 else "\n".join(f"- {line}" for line in lines)


def _verbatim(lines: Sequence[str]) -> str:
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence, *lines, fence])


MARKUP = Markup(
    name="github", tablefmt="github", escape=escape, cell_escape=escape,
    heading=lambda text: f"### {text}", items=_items, lines=_lines, verbatim=_verbatim)
