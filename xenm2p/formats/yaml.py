"""YAML traces, version 1: the hand-written and the archival form.

A file as `write_yaml` makes it, or a person in its layout, is a few top-level lines and
sections of one row a line. Rows go to the fast path a block of lines at a time; the lines
it leaves go to the strict parser, which also takes over, at the very line, where the layout
ends, and where anything is wrong, so that every error is the strict parser's.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import numpy as np

from xenm2p.errors import InputError
from xenm2p.formats.numbers import PAD, Bools
from xenm2p.formats.yaml_lines import MAX_INDENT, Block, ParsedLines, parse_lines
from xenm2p.formats.yaml_rows import Document
from xenm2p.formats.yaml_strict import MAX_GAP, BoundedText, StrictParser
from xenm2p.formats.yaml_tables import TABLES
from xenm2p.formats.yaml_write import write_yaml
from xenm2p.trace import I64, Trace

__all__ = ["read_yaml", "read_yaml_strictly", "write_yaml"]

_BLOCK = 1 << 20  # bytes of whole lines that are parsed at once: small enough for the caches

_SECTION = re.compile(rb"^(memory|m2p|events):(?: +#[ -~]*| *)$", re.MULTILINE)
_NOTHING = re.compile(rb" *(?:#[ -~]*)?")  # a blank line or comment of plain ASCII
_ROW = re.compile(rb"( *)- \{")
# Line ends that YAML knows besides \n; one of them would shift the lines after it.
_ODD_LINE_END = re.compile(rb"[\r\x00]|\xc2\x85|\xe2\x80[\xa8\xa9]")


def read_yaml(stream: IO[bytes] | bytes, source: str) -> Trace:
    """The trace in a YAML file, read as a stream; what is held are the columns.

    `source` names the input in errors. Raises InputError with file, line and field for
    anything that is not a trace of version 1.
    """
    text = io.BytesIO(stream) if isinstance(stream, bytes) else stream
    return trace_of(_Reader(text, Document(source)).read())


def read_yaml_strictly(stream: IO[bytes] | bytes, source: str) -> Trace:
    """As `read_yaml`, by the strict parser alone: slower, and always the same trace."""
    text = io.BytesIO(stream) if isinstance(stream, bytes) else stream
    document = Document(source)
    StrictParser(document, BoundedText(b"", text)).parse()
    return trace_of(document)


def trace_of(document: Document) -> Trace:
    """The trace that a wholly read document gives. Raises InputError where a key is missing."""
    for key in ("format", "version", "events"):
        if key not in document.seen:
            raise InputError(f"not a trace: '{key}' is missing", source=document.source)
    pieces = document.event_pieces()
    scalars = document.scalars
    kernel = scalars.get("kernel")
    return Trace(
        chunks_of=lambda: iter(pieces),
        kernel=None if kernel is None else str(kernel),
        domain=int(scalars.get("domain", 0)),
        origin=str(scalars.get("origin", "")),
        memory=document.runs("memory"),
        m2p=document.runs("m2p"),
        tasks=document.tasks.names,
        length=document.events.length,
    )


@dataclass(slots=True)
class _Reader:
    """Where the reading of one file has come to.

    data: what is read and not yet parsed. position, line: where in the file it begins
    (bytes, 1-based line). section, indent: the section that rows belong to and the blanks
    before their dash, None before its first row. at_end: the stream has no more.
    """

    stream: IO[bytes]
    document: Document
    data: bytes = b""
    position: int = 0
    line: int = 1
    section: str | None = None
    indent: int | None = None
    at_end: bool = False

    def read(self) -> Document:
        """The whole file, by the fast path as far as it goes."""
        if self._read_head():
            while self._fill():
                if not (self._begin_section() or self._read_rows()):
                    return self._read_rest_strictly()
            return self.document
        return self._read_rest_strictly()

    def _fill(self) -> bool:
        """Have a whole line in `data`, or a longest one; False at the end of the file."""
        while b"\n" not in self.data and len(self.data) < _BLOCK and not self.at_end:
            self._read_more()
        return bool(self.data)

    def _read_more(self) -> None:
        more = self.stream.read(_BLOCK)
        self.at_end = not more
        self.data += more

    def _find_section(
        self, find: Callable[[bytes], re.Match[bytes] | None]
    ) -> re.Match[bytes] | None:
        """A line that begins a section, where all of it has been read."""
        found = find(self.data)
        is_whole = found is not None and (self.at_end or found.end() < len(self.data))
        return found if is_whole else None

    def _advance(self, size: int) -> None:
        self.line += self.data.count(b"\n", 0, size)
        self.position += size
        self.data = self.data[size:]

    def _read_head(self) -> bool:
        """Read what is before the first section; False where it is no document by itself."""
        found = None
        while not found and len(self.data) < MAX_GAP and not self.at_end:
            self._read_more()
            found = self._find_section(_SECTION.search)
        if not found or _ODD_LINE_END.search(self.data, 0, found.start()):
            return False
        head = Document(self.document.source)
        parser = StrictParser(head, BoundedText(self.data[:found.start()]))
        try:
            parser.parse()
        except InputError:
            return False
        if not parser.is_open_block:
            return False
        self.document = head
        self._advance(found.start())
        return True

    def _read_rest_strictly(self) -> Document:
        """Let the strict parser read on from here; a line or two tell it where that is."""
        known, before = None, b""
        if self.document.seen:
            known = self.section or "memory"
            before = f"{known}:\n".encode()
            if self.indent is not None:
                before += b" " * self.indent + b"- {}\n"
        parser = StrictParser(
            self.document, BoundedText(before + self.data, self.stream),
            line_shift=self.line - before.count(b"\n"),
            byte_shift=self.position - len(before),
        )
        parser.parse(known, has_placeholder=self.indent is not None)
        return self.document

    def _begin_section(self) -> bool:
        """Take a line that begins a section, if one is next."""
        found = self._find_section(_SECTION.match)
        if not found:
            return False
        section = found[1].decode()
        if section in self.document.seen:
            return False
        self.document.seen.add(section)
        self.section, self.indent = section, None
        self._advance(min(found.end() + 1, len(self.data)))
        return True

    def _read_rows(self) -> bool:
        """Take the lines there are up to one that is no row; False if there are none."""
        size = len(self.data) if self.at_end else self.data.rfind(b"\n") + 1
        lines = self.data[:size]
        if not lines or self.section is None:
            return False
        block = Block.of(lines if lines.endswith(b"\n") else lines + b"\n")
        if self.indent is None:
            self.indent = _indent_of(block)
        is_item = block.is_item(self.indent or 0)
        left, n_lines = _sort_lines(block, is_item, self.indent)
        if n_lines == 0:
            return False
        is_item[n_lines:] = False
        table = TABLES[self.section]
        parsed = parse_lines(block, is_item, self.indent or 0, table, self.document.tasks)
        is_item[parsed.line] = False
        left = np.sort(np.concatenate([left, np.flatnonzero(is_item)]))
        rows = self.document.rows(self.section)
        if len(left):
            strict = self._read_lines_strictly(block, left)
            if strict is None:
                return False
            parsed = _merge(parsed, strict)
        rows.extend(parsed.columns, len(parsed.line))
        self._advance(size if n_lines == len(block) else int(block.start[n_lines]) - PAD)
        return True

    def _read_lines_strictly(self, block: Block, left: I64) -> ParsedLines | None:
        """The rows of single lines by the strict parser.

        Each line is to be one whole row, or nothing. None where one is not, or is wrong:
        which error that is, the strict parser says best when it reads on from the block.
        """
        assert self.section is not None
        texts = [block.line(index) for index in left.tolist()]
        if any(_ODD_LINE_END.search(text) for text in texts):
            return None
        document = Document(self.document.source, tasks=self.document.tasks)
        item_lines: list[tuple[int, int]] = []
        text = f"{self.section}:\n".encode() + b"\n".join(texts) + b"\n"
        parser = StrictParser(document, BoundedText(text), line_shift=-1, item_lines=item_lines)
        try:
            parser.parse()
        except InputError:
            return None
        if document.seen != {self.section} or any(first != last for first, last in item_lines):
            return None
        lines = left[np.array([first for first, _ in item_lines], dtype=np.int64)]
        return ParsedLines(lines, document.rows(self.section).columns())


def _indent_of(block: Block) -> int | None:
    """The blanks before the dash of a section's first row, None where none is found."""
    for index in range(len(block)):
        line = block.line(index)
        if not _NOTHING.fullmatch(line):
            found = _ROW.match(line)
            return len(found[1]) if found and len(found[1]) <= MAX_INDENT else None
    return None


def _sort_lines(block: Block, is_item: Bools, indent: int | None) -> tuple[I64, int]:
    """Look at the lines that are no items by their looks.

    Gives those that the strict parser is to look at, one by one, and the number of lines
    before the first that is something else altogether.
    """
    prefix = None if indent is None else b" " * indent + b"- {"
    left: list[int] = []
    for index in np.flatnonzero(~is_item).tolist():
        line = block.line(index)
        if _NOTHING.fullmatch(line):
            continue
        is_row = prefix is not None and line.startswith(prefix)
        if not is_row and not line.lstrip(b" ").startswith(b"#"):
            return np.array(left, dtype=np.int64), index
        left.append(index)
    return np.array(left, dtype=np.int64), len(block)


def _merge(parsed: ParsedLines, strict: ParsedLines) -> ParsedLines:
    """The rows of both in the order of their lines."""
    line = np.concatenate([parsed.line, strict.line])
    order = np.argsort(line, kind="stable")
    columns = {
        name: np.concatenate([parsed.columns[name], column])[order]
        for name, column in strict.columns.items()
    }
    return ParsedLines(line[order], columns)
