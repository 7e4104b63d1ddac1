"""The machine formats: what is written is what was there."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from xenm2p.report.delimited import write_csv, write_tsv
from xenm2p.report.fields import Cell, Field, TableSpec
from xenm2p.report.jsonrows import encode_rows, write_json, write_jsonl
from xenm2p.report.markup import printable

TABLE = TableSpec("rows", "", (
    Field("number", Cell.NUMBER, ""), Field("frame", Cell.FRAME, ""),
    Field("wo%rd", Cell.WORD, ""), Field("text", Cell.TEXT, ""), Field("flag", Cell.FLAG, ""),
    Field("list", Cell.LIST, "")))
HEADER = {"schema": "xenm2p/1", "table": "rows", "kernel": "override"}

ROWS = st.lists(st.tuples(
    st.none() | st.integers(-(1 << 63), 1 << 64),
    st.none() | st.sampled_from(["0x10", "F:0x1a2b", "invalid"]),
    st.none() | st.sampled_from([0, -22, "skip"]),
    st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    st.none() | st.booleans(),
    st.lists(st.integers(0, 99), max_size=3)), max_size=8)


def columns_of(rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(len(TABLE.fields))]


@given(ROWS)
def test_jsonl_equals_the_json_module_row_by_row(rows: list[tuple[Any, ...]]) -> None:
    names = [field.name for field in TABLE.fields]
    expected = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    assert list(encode_rows(TABLE, columns_of(rows))) == expected


@given(ROWS, ROWS)
def test_json_is_the_same_document_however_it_comes_in_batches(
    first: list[tuple[Any, ...]], then: list[tuple[Any, ...]]
) -> None:
    out, lines = io.StringIO(), io.StringIO()
    write_json(out, TABLE, HEADER, [columns_of(first), columns_of(then)])
    write_jsonl(lines, TABLE, HEADER, [columns_of(first + then)])
    header, *rows = map(json.loads, lines.getvalue().split("\n")[:-1])
    assert json.loads(out.getvalue()) == {**header, "rows": rows}


@given(ROWS)
def test_csv_and_tsv_read_back(rows: list[tuple[Any, ...]]) -> None:
    expected = [[("" if cell is None else " ".join(map(str, cell)) if isinstance(cell, list)
                  else str(cell).lower() if isinstance(cell, bool) else printable(str(cell)))
                 for cell in row] for row in rows]
    for write, dialect in ((write_csv, "excel"), (write_tsv, "excel-tab")):
        out = io.StringIO()
        write(out, TABLE, HEADER, [columns_of(rows)])
        header, *read = csv.reader(io.StringIO(out.getvalue(), newline=""), dialect)
        assert header == [field.name for field in TABLE.fields]
        assert read == expected
        assert out.getvalue().count("\n") == len(rows) + 1
