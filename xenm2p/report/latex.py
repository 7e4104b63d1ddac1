"""Reporter latex: a fragment to \\input into an article."""

from __future__ import annotations

from collections.abc import Sequence

from xenm2p.report.markup import Markup

_SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}"})


def escape(text: str) -> str:
    """`text` so that LaTeX shows it as it is."""
    return text.translate(_SPECIAL)


def _items(items: Sequence[tuple[str, str]]) -> str:
    return "\n".join([r"\begin{description}",
                      *(rf"\item[{key}] {text}" for key, text in items),
                      r"\end{description}"])


def _lines(lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return lines[0]
    return "\n".join([r"\begin{itemize}", *(rf"\item {line}" for line in lines),
                      r"\end{itemize}"])


def _verbatim(lines: Sequence[str]) -> str:
    body = (line.replace(r"\end{verbatim}", r"\end {verbatim}") for line in lines)
    return "\n".join([r"\begin{verbatim}", *body, r"\end{verbatim}"])


MARKUP = Markup(
    name="latex", tablefmt="latex", escape=escape,
    cell_escape=str,  # tabulate escapes the cells of its latex tables
    heading=lambda text: rf"\section*{{{text}}}", items=_items, lines=_lines, verbatim=_verbatim)
