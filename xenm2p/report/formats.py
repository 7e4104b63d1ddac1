"""The formats by name: which reporter writes each. A new one is its file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TextIO

from xenm2p.report import github, html, jira, latex, plain, rst
from xenm2p.report.delimited import write_csv, write_tsv
from xenm2p.report.fields import Columns, TableSpec
from xenm2p.report.jsonrows import write_json, write_jsonl
from xenm2p.report.markup import Markup, write_markup

# Writes a header and the batches of one table's rows.
RowWriter = Callable[[TextIO, TableSpec, Mapping[str, Any], Iterable[Columns]], None]

MARKUPS: dict[str, Markup] = {
    module.MARKUP.name: module.MARKUP for module in (plain, github, rst, jira, html, latex)
}


def _markup_writer(markup: Markup) -> RowWriter:
    def write(
        out: TextIO, table: TableSpec, header: Mapping[str, Any], batches: Iterable[Columns]
    ) -> None:
        write_markup(out, markup, table, header, batches)

    return write


WRITERS: dict[str, RowWriter] = {
    **{name: _markup_writer(markup) for name, markup in MARKUPS.items()},
    "csv": write_csv, "tsv": write_tsv, "jsonl": write_jsonl, "json": write_json,
}
