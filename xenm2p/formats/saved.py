"""Saved replays: what `xenm2p replay -f jsonl` or `export -f jsonl` wrote, read back."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from xenm2p.errors import InputError
from xenm2p.formats.streams import BinaryInput

SCHEMA = "xenm2p/1"
_MAX_LINE = 1 << 20
_IN_MEMORY = 1 << 20

Row = dict[str, Any]
_HEADER = b'{"schema":'


def looks_like_replay(first: bytes) -> bool:
    """Whether a file that begins with `first` is a saved replay."""
    return first.startswith(_HEADER)


@dataclass(frozen=True, slots=True)
class SavedTable:
    """One table: its header, and its rows in a temporary file.

    `line` is the header's line in the file `source`.
    """

    source: str
    line: int
    header: Row
    file: IO[bytes]

    @property
    def name(self) -> str:
        """Which table it is."""
        return str(self.header["table"])

    def rows(self) -> Iterator[Row]:
        """The rows. Raises InputError for a line that is no JSON object."""
        self.file.seek(0)
        for number, line in enumerate(self.file, self.line + 1):
            yield _object(line, self.source, number)

    def close(self) -> None:
        """Drop the rows."""
        self.file.close()


def read_tables(opened: BinaryInput) -> dict[str, SavedTable]:
    """The tables of a saved replay by name. Raises InputError.

    Rows wait in temporary files, so that memory is bounded.
    """
    tables: dict[str, SavedTable] = {}
    table: SavedTable | None = None
    number = 0
    while line := opened.stream.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE:
            raise InputError("the line is longer than any row", source=opened.name, place=number)
        if line.startswith(_HEADER):
            table = _opened_table(line, opened.name, number)
            if table.name in tables:
                raise InputError(f"a second table {table.name!a}: more than one replay",
                                 source=opened.name, place=number)
            tables[table.name] = table
        elif table is None:
            raise InputError("a row before any header", source=opened.name, place=number)
        else:
            table.file.write(line)
    return tables


def _opened_table(line: bytes, source: str, number: int) -> SavedTable:
    header = _object(line, source, number)
    if header.get("schema") != SCHEMA or not isinstance(header.get("table"), str):
        raise InputError(f"not the header of a table of schema {SCHEMA}",
                         source=source, place=number)
    return SavedTable(source, number, header, tempfile.SpooledTemporaryFile(_IN_MEMORY, "w+b"))


def _object(line: bytes, source: str, number: int) -> Row:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"no JSON: {ascii(line[:40])[1:]}", source=source,
                         place=number) from None
    if not isinstance(found, dict):
        raise InputError("a row is not a JSON object", source=source, place=number)
    return found
