"""A handful of named values in any format: what `info` and `check` have to say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from xenm2p.report.delimited import write_csv, write_tsv
from xenm2p.report.fields import Cell, Field, TableSpec
from xenm2p.report.formats import MARKUPS
from xenm2p.report.markup import Heading, Items, as_text, render

PAIRS = TableSpec("pairs", "named values", (
    Field("name", Cell.WORD, "name"), Field("value", Cell.TEXT, "value")))


def write_pairs(
    out: TextIO, format_: str, title: str, header: Mapping[str, Any],
    pairs: Sequence[tuple[str, Any]],
) -> None:
    """`title` and (name, value) pairs; json and jsonl give one object, header and values."""
    if format_ in MARKUPS:
        markup = MARKUPS[format_]
        items = [(name.replace("_", " "), _text(member)) for name, value in pairs
                 for member in (value if isinstance(value, list) else [value])
                 if member is not None]
        out.write(markup.opening)
        out.write(render(markup, [Heading(title), Items(items)]))
        out.write(markup.closing)
    elif format_ in ("json", "jsonl"):
        indent = 1 if format_ == "json" else None
        out.write(json.dumps({**header, **dict(pairs)}, indent=indent) + "\n")
    else:
        write = write_csv if format_ == "csv" else write_tsv
        columns = [list(column) for column in zip(*_single(pairs), strict=True)]
        write(out, PAIRS, header, [columns])


def _single(pairs: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Lists as one pair for each of their members; what is nested as its own pairs."""
    flat: list[tuple[str, Any]] = []
    for name, value in pairs:
        if isinstance(value, list):
            flat += [(name, member) for member in value]
        elif isinstance(value, dict):
            flat += [(f"{name}.{key}", member) for key, member in value.items()]
        else:
            flat.append((name, value))
    return flat


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {member}" for name, member in value.items()) or "none"
    return as_text(value)
