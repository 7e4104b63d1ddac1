"""man/xenm2p-trace.5 says what the program does: its tables are compared with the code's."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xenm2p.formats import binary_layout as layout
from xenm2p.formats.bpftrace import table as bpftrace_table
from xenm2p.trace import COLUMNS, KIND_BY_CODE

PAGE = Path(__file__).parent.parent / "man" / "xenm2p-trace.5"


def tables() -> dict[str, list[list[str]]]:
    """The rows of each table of the page, by the cells of its head joined with blanks."""
    found = {}
    for body in re.findall(r"^\.TS\n(.*?)^\.TE$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        rows = [line.split("|") for line in body.splitlines() if "|" in line]
        rows = [row for row in rows if row != ["tab(", ");"]]
        found[" ".join(rows[0])] = rows[1:]
    return found


def magic(cell: str) -> bytes:
    """The bytes that a quoted cell of the page stands for (roff writes a backslash as \\e)."""
    return cell.strip('"').replace("\\er", "\r").replace("\\en", "\n").encode("ascii")


def test_the_table_of_bpftraces_records_is_that_of_the_reader() -> None:
    assert tables()["probe needs may have"] == [list(row) for row in bpftrace_table()]


def test_the_table_of_kinds_is_that_of_the_trace() -> None:
    def keys(columns: dict[str, str]) -> str:
        return " ".join(key if key == column else f"{key}:{column}"
                        for key, column in columns.items())

    assert tables()["# kind needs takes"] == [
        [str(int(spec.kind)), spec.name, keys(spec.needs), keys(spec.takes)]
        for spec in KIND_BY_CODE]


def test_every_kind_is_explained() -> None:
    explained = re.findall(r"^\.TP\n\.BR? (.*)$", PAGE.read_text(), re.MULTILINE)
    names = [name for line in explained for name in re.findall(r"[a-z_0-9]+", line)]
    assert names == [spec.name for spec in KIND_BY_CODE]


def test_the_table_of_columns_is_that_of_the_trace() -> None:
    rows = tables()["column dtype absent meaning"]
    assert [(name, dtype, int(absent, 0), meaning) for name, dtype, absent, meaning in rows] == [
        (spec.name, spec.dtype.str.replace("|", "<"), spec.absent, spec.help)
        for spec in COLUMNS.values()]


def test_the_records_are_those_of_the_format() -> None:
    assert [(name, magic(cell)) for name, cell, _ in tables()["record magic what it is"]] == [
        (record.name, record.value) for record in layout.RecordType]
    text = PAGE.read_text()
    assert magic(r"x2ptail\en") == layout.TAIL_MAGIC and r"x2ptail\en" in text
    assert magic(r"xenm2p\er\en") == layout.MAGIC and r"xenm2p\er\en" in text


def test_the_encodings_and_filters_are_those_of_the_format() -> None:
    assert [row[:2] for row in tables()["# encoding stored bytes"]] == [
        [str(int(encoding)), encoding.name] for encoding in layout.Encoding]
    assert [row[:2] for row in tables()["# filter before compression"]] == [
        [str(int(filter)), filter.name] for filter in layout.Filter]


def test_the_limits_are_those_of_the_format() -> None:
    assert {name: int(value) for name, value, _ in tables()["limit value of"]} == {
        name: value for name, value in vars(layout).items() if name.startswith("MAX_")
        and name != "MAX_FRAME"}


@pytest.mark.parametrize("head, struct", [
    (["8 bytes", "u4", "u4", "u8", "u8", "u4", "u4"], layout.FILE_HEADER),
    (["8 bytes", "u8", "u8", "u8", "u4", "u4", "u4", "u4", "u8", "", "u4"],
     layout.RECORD_HEAD),
    (["u1", "u1", "u1", "", "u8", "u8", "u4", ""], layout.SECTION),
])
def test_the_offsets_are_those_of_the_structs(head: list[str], struct: object) -> None:
    text = PAGE.read_text()
    bodies = re.findall(r"^offset\|type\|value\n_\n(.*?)^\.TE$", text, re.DOTALL | re.MULTILINE)
    layouts = [[line.split("|") for line in body.splitlines()] for body in bodies]
    (rows,) = [rows for rows in layouts if [row[1] for row in rows][:len(head)] == head]
    codes = {"8 bytes": "8s", "u8": "Q", "u4": "I", "u1": "B"}
    # Where the page has zeros, the struct pads up to the next offset.
    formats, offsets = "<", []
    for row, after in zip(rows[:len(head)], [*rows[1:], ["32"]], strict=False):
        offsets.append(int(row[0]))
        gap = int(after[0]) - int(row[0])
        formats += codes.get(row[1], f"{gap}x")
    assert formats == struct.format  # type: ignore[attr-defined]
    assert offsets[0] == 0 and offsets == sorted(offsets)


@pytest.mark.parametrize("command", [["groff", "-t", "-man", "-ww", "-z"]])
def test_the_page_formats_without_a_warning(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        # Without groff what can be said is that every request is one that man(7) knows.
        known = {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".BR", ".RI", ".BI", ".RS",
                 ".RE", ".nf", ".fi", ".TS", ".TE", '.\\"'}
        lines = [line for line in PAGE.read_text().splitlines() if line.startswith(".")]
        assert {line.split()[0] for line in lines} <= known
        return
    done = subprocess.run([*command, str(PAGE)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
