"""The strict YAML parser: PyYAML's parser events with their source text, nothing resolved.

YAML's own ideas of numbers, booleans, tags, anchors and merge keys never get a say. Events
are consumed as the text is read, so that what is held is the rows and one YAML event.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from typing import IO, Any, NoReturn

import yaml

from xenm2p.errors import InputError, unknown
from xenm2p.formats.numbers import parse_entry, parse_int, quote
from xenm2p.formats.yaml_rows import Document
from xenm2p.formats.yaml_schema import (
    ABSENT_COUNT,
    EVENT_KEYS,
    EVENT_ROWS,
    FORMAT,
    RUN_ROWS,
    SCALARS,
    SECTIONS,
    UNTOLD,
    VERSION,
    Field,
    Form,
    Row,
)
from xenm2p.trace import FRAME_MASK, IDENTITY, INVALID, MAX_FRAME, NO_DOMID

# libyaml where PyYAML was built with it, else PyYAML's own parser: same events, slower.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Text that may pass without one value: the longest comment, scalar or white space.
MAX_GAP = 1 << 20


@dataclass(slots=True)
class BoundedText:
    """What the YAML parser reads from: `before`, then `stream`; no value may be too long."""

    before: InitVar[bytes]
    stream: IO[bytes] | None = None
    gap: int = 0
    _before: io.BytesIO = field(init=False)

    def __post_init__(self, before: bytes) -> None:
        self._before = io.BytesIO(before)

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes. Raises InputError where a value takes more than MAX_GAP."""
        data = self._before.read(size)
        if not data and self.stream is not None:
            data = self.stream.read(size)
        self.gap += len(data)
        if self.gap > MAX_GAP:
            raise InputError(f"one value or comment of more than {MAX_GAP >> 20} MiB")
        return data


@dataclass(frozen=True, slots=True)
class Scalar:
    """One scalar's text, the line it is on, and whether it stands there without quotes."""

    text: str
    line: int
    is_plain: bool


@dataclass(slots=True)
class StrictParser:
    """Reads YAML text into `document`.

    `line_shift` is added to the parser's 0-based line numbers. `item_lines`, where given,
    collects the first and last line of every row.
    """

    document: Document
    text: BoundedText
    line_shift: int = 1
    byte_shift: int = 0
    item_lines: list[tuple[int, int]] | None = None
    line: int = 0
    is_open_block: bool = False  # a block mapping at column 0 without an explicit end
    _events: Iterator[Any] = field(default_factory=lambda: iter(()))

    def parse(self, known: str | None = None, has_placeholder: bool = False) -> None:
        """Read the whole text: one document, one mapping.

        `known` is a section that was begun before, goes on as the first key of this text
        and is not a second one; its first row may be a placeholder, which is left out.
        """
        self.line = self.line_shift
        self._events = yaml.parse(self.text, Loader=LOADER)
        try:
            self._parse_document(known, has_placeholder)
        except yaml.reader.ReaderError as error:
            place = f"byte {max(0, int(error.position) + self.byte_shift)}"
            raise InputError(f"not a text in UTF-8: {error.reason}", source=self.document.source,
                             place=place) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            if mark is not None:
                self.line = mark.line + self.line_shift
            self._fail(f"not YAML: {error.problem or error.context}")
        except InputError as error:
            if error.source is not None:
                raise
            self._fail(error.reason)

    # --- structure ------------------------------------------------------------------------

    def _fail(self, reason: str, line: int | None = None) -> NoReturn:
        raise InputError(reason, source=self.document.source,
                         place=self.line if line is None else line) from None

    def _next(self) -> Any:
        event = next(self._events)
        self.text.gap = 0
        if event.start_mark is not None:
            self.line = event.start_mark.line + self.line_shift
        if getattr(event, "anchor", None) is not None:
            what = "alias" if isinstance(event, yaml.AliasEvent) else "anchor"
            self._fail(f"a YAML {what} ({quote(event.anchor)}) is not allowed in a trace")
        if getattr(event, "tag", None) is not None:
            self._fail(f"a YAML tag ({quote(event.tag)}) is not allowed in a trace")
        return event

    def _parse_document(self, known: str | None, has_placeholder: bool) -> None:
        if str(self._next().encoding).startswith("utf-16"):
            self._fail("not a text in UTF-8: it begins as UTF-16", 1)
        if isinstance(self._next(), yaml.StreamEndEvent):
            self._fail("the file is empty", 1)
        root = self._next()
        column = root.start_mark.column
        if not isinstance(root, yaml.MappingStartEvent):
            self._fail(f"not a trace: {_describe(root)} where a mapping "
                       f"(format: {FORMAT}, ...) is needed")
        self.is_open_block = not root.flow_style and column == 0
        while (key := self._key("the trace")) is not None:
            if key.text == known:
                known = None
                self._parse_section(key.text, has_placeholder)
                continue
            if key.text in self.document.seen:
                self._fail(f"'{key.text}' is given twice")
            if key.text in SCALARS:
                self._parse_header(key.text)
            elif key.text in SECTIONS:
                self._parse_section(key.text)
            else:
                self._fail(unknown("key", key.text, SCALARS + SECTIONS))
            self.document.seen.add(key.text)
        end = self._next()
        self.is_open_block &= not end.explicit
        if not isinstance(self._next(), yaml.StreamEndEvent):
            self._fail("more than one YAML document")

    def _key(self, where: str) -> Scalar | None:
        event = self._next()
        if isinstance(event, yaml.MappingEndEvent):
            return None
        if not isinstance(event, yaml.ScalarEvent):
            self._fail(f"{_describe(event)} as a key of {where}")
        if event.value == "<<":
            self._fail("a YAML merge key (<<) is not allowed in a trace")
        return Scalar(event.value, self.line, event.implicit[0])

    def _scalar(self, key: str, where: str = "") -> Scalar:
        event = self._next()
        if not isinstance(event, yaml.ScalarEvent):
            self._fail(f"{where}'{key}': {_describe(event)} where one value is needed")
        return Scalar(event.value, self.line, event.implicit[0])

    def _parse_header(self, key: str) -> None:
        value = self._scalar(key)
        scalars = self.document.scalars
        if key in ("version", "domain"):
            number = Field(key, key, 0, NO_DOMID - 1)
            scalars[key] = self._field(number, value, "")
            if key == "version" and scalars[key] != VERSION:
                self._fail(f"version {quote(value.text)} is not known; "
                           f"this xenm2p reads version {VERSION}")
            return
        if key == "format" and value.text != FORMAT:
            self._fail(f"'format' is {quote(value.text)}, not {FORMAT}")
        if key == "kernel" and not value.text:
            self._fail("'kernel' is empty")
        scalars[key] = value.text

    def _parse_section(self, section: str, has_placeholder: bool = False) -> None:
        rows = self.document.rows(section)
        start = self._next()
        if isinstance(start, yaml.ScalarEvent) and start.implicit[0] and start.value == "":
            return
        if not isinstance(start, yaml.SequenceStartEvent):
            self._fail(f"'{section}': {_describe(start)} where a list of rows is needed")
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            where = f"event {rows.length}" if section == "events" else \
                f"{section} row {rows.length}"
            if not isinstance(event, yaml.MappingStartEvent):
                self._fail(f"{where}: {_describe(event)} where a mapping is needed")
            line = self.line
            values = self._row_values(where)
            if has_placeholder:
                has_placeholder = False
                continue
            if section == "events":
                rows.append(self._event(values, where, line))
            else:
                rows.append(self._run(RUN_ROWS[section], values, where, line))
            if self.item_lines is not None:
                self.item_lines.append((line, self.line))

    def _row_values(self, where: str) -> dict[str, Scalar]:
        values: dict[str, Scalar] = {}
        while (key := self._key(where)) is not None:
            if key.text in values:
                self._fail(f"{where}: '{key.text}' is given twice")
            values[key.text] = self._scalar(key.text, f"{where}: ")
        return values

    # --- rows -----------------------------------------------------------------------------

    def _event(self, values: dict[str, Scalar], where: str, line: int) -> dict[str, int]:
        if "kind" not in values:
            for key, value in values.items():
                if key not in EVENT_KEYS:
                    self._fail(f"{where}: {unknown('key', key, EVENT_KEYS)}", value.line)
            self._fail_missing("kind", values, where, line)
        kind = values.pop("kind")
        if kind.text not in EVENT_ROWS:
            self._fail(f"{where}: {unknown('kind', kind.text, EVENT_ROWS)}", kind.line)
        spec = EVENT_ROWS[kind.text]
        row = self._fields(spec, values, where, line)
        row["kind"] = spec.kind
        if spec.name == "lost" and row["ref"] == UNTOLD:
            row["ref"] = ABSENT_COUNT
        return row

    def _run(
        self, spec: Row, values: dict[str, Scalar], where: str, line: int
    ) -> dict[str, int]:
        row = self._fields(spec, values, where, line)
        count = row.get("count", 1)
        for name in ("start", "value"):
            first = row.get(name, INVALID)
            if first != INVALID and (first & FRAME_MASK) + count > MAX_FRAME + 1:
                self._fail(f"{where}: {count} frames from {first & FRAME_MASK:#x} on go "
                           f"beyond the last frame, {MAX_FRAME:#x}", line)
        return row

    def _fields(
        self, spec: Row, values: dict[str, Scalar], where: str, line: int
    ) -> dict[str, int]:
        row: dict[str, int] = {}
        for key, value in values.items():
            if key not in spec.fields:
                self._fail(f"{where}: {_no_such_key(spec, key)}", value.line)
            row[spec.fields[key].column] = self._field(spec.fields[key], value, f"{where}: ")
        for key in spec.needs:
            if key not in values:
                self._fail_missing(key, values, where, line)
        return row

    def _fail_missing(
        self, key: str, values: dict[str, Scalar], where: str, line: int
    ) -> NoReturn:
        have = f"have {', '.join(values)}" if values else "have nothing"
        self._fail(f"{where}: '{key}' is missing ({have})", line)

    def _field(self, spec: Field, value: Scalar, where: str) -> int:
        """The number that a scalar gives for a field; a task name's number."""
        if spec.key == "task":
            return self.document.tasks.index_of(value.text)
        try:
            return _number(spec, value)
        except ValueError as error:
            self._fail(f"{where}'{spec.key}': {error}", value.line)


def _number(spec: Field, value: Scalar) -> int:
    """A scalar as the number a field takes. Raises ValueError that says why it is none."""
    text = value.text
    if spec.key == "user":
        if value.is_plain and text in ("true", "false"):
            return int(text == "true")
        raise ValueError(f"{quote(text)} is neither true nor false")
    is_entry = spec.key in ("pfn", "mfn") and (text == "invalid" or text[:2] in ("F:", "I:"))
    if not value.is_plain and not is_entry:
        raise ValueError(f"the text {quote(text)} is not a number; write it without quotes")
    number = parse_entry(text) if is_entry else parse_int(text)
    if is_entry:
        if spec.form < (Form.INVALID if number == INVALID else Form.ENTRY):
            raise ValueError(f"{quote(text)} cannot stand here, only a frame number")
        frame = 0 if number == INVALID else number & (IDENTITY - 1)
    else:
        frame = number
    if not spec.low <= frame <= spec.high:
        low, high = (hex(spec.low), hex(spec.high)) if spec.key in ("pfn", "mfn") else \
            (str(spec.low), str(spec.high))
        raise ValueError(f"{quote(text)} is out of range ({low} to {high})")
    return number


def _no_such_key(spec: Row, key: str) -> str:
    """Why a row has no such key: for which kinds it is, or the nearest key there is."""
    if spec.name in EVENT_ROWS:
        if key in EVENT_KEYS:
            return f"'{key}' is not for {spec.name}; it is for {', '.join(EVENT_KEYS[key])}"
        return unknown("key", key, ["kind", *spec.fields])
    return unknown("key", key, spec.fields)


def _describe(event: Any) -> str:
    if isinstance(event, yaml.SequenceStartEvent):
        return "a list"
    if isinstance(event, yaml.MappingStartEvent):
        return "a mapping"
    return f"the value {quote(event.value)}" if event.value else "nothing"
