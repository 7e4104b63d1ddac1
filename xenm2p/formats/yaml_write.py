"""The YAML writer: one event a line in flow style, in the order of the kind's keys."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import yaml

from xenm2p.errors import InputError
from xenm2p.formats.numbers import Bools
from xenm2p.formats.yaml_schema import (
    ABSENT_COUNT,
    EVENT_ROWS,
    FORMAT,
    UNTOLD,
    VERSION,
    Field,
    Form,
)
from xenm2p.trace import (
    COLUMNS,
    FOREIGN,
    IDENTITY,
    INVALID,
    KIND_BY_CODE,
    MAX_FRAME,
    Column,
    Events,
    Runs,
    Trace,
    format_frame,
)

# Scalars that stand in a flow mapping without quotes and mean themselves: no indicator, no
# `: `, no ` #`, no comma or bracket. The fast path reads task names of just this form.
PLAIN = re.compile(r"[A-Za-z0-9_./<(](?:[A-Za-z0-9_./:+~()<>@=* -]*[A-Za-z0-9_./+~()<>@=*-])?")

_RESOLVER: Any = yaml.resolver.Resolver()


def format_text(text: str) -> str:
    """A YAML scalar that every YAML reader takes for the string `text`."""
    if PLAIN.fullmatch(text) and ": " not in text:
        # Other readers would make a bool, number or date of some plain scalars.
        tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
        if tag == "tag:yaml.org,2002:str":
            return text
    # A YAML double-quoted scalar knows all escapes of JSON, and none for half a surrogate
    # pair, which stands for a byte that was no UTF-8: that is spelt out.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(_escape(char) for char in json.dumps(text, ensure_ascii=False))


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def write_yaml(trace: Trace, out: IO[bytes]) -> None:
    """Write a trace as YAML, version 1, chunk by chunk; reading it gives the same trace.

    Raises InputError, naming the event, where the trace holds a number that the format
    cannot say: a frame of more than 52 bits, or a needed field that is absent.
    """
    out.write(_header(trace).encode())
    first_event = 0
    for events in trace.chunks(1 << 14):
        if first_event == 0:
            out.write(b"events:\n")
        out.write("".join(_lines(events, trace, first_event)).encode())
        first_event += len(events)
    if first_event == 0:
        out.write(b"events: []\n")


def _header(trace: Trace) -> str:
    lines = [f"format: {FORMAT}", f"version: {VERSION}"]
    # For people: what the capture could not show. A reader passes over comments.
    lines += [f"# note: {format_text(note)}" for note in trace.notes]
    if trace.kernel is not None:
        lines.append(f"kernel: {format_text(trace.kernel)}")
    lines.append(f"domain: {trace.domain}")
    if trace.origin:
        lines.append(f"origin: {format_text(trace.origin)}")
    for section, runs in (("memory", trace.memory), ("m2p", trace.m2p)):
        if len(runs):
            lines.append(f"{section}:")
            lines.extend(_run_lines(section, runs))
    return "\n".join(lines) + "\n"


def _run_lines(section: str, runs: Runs) -> Iterator[str]:
    start_key, value_key = ("pfn", "mfn") if section == "memory" else ("mfn", "pfn")
    for start, value, count in runs.tuples():
        parts = [f"{start_key}: {start:#x}"]
        if value != INVALID or section == "m2p":
            parts.append(f"{value_key}: {format_frame(value)}")
        if count != 1:
            parts.append(f"count: {count}")
        yield f"- {{{', '.join(parts)}}}"


def _lines(events: Events, trace: Trace, first_event: int) -> list[str]:
    """One line an event. Rows that have the same keys are written with one template."""
    _check(events, first_event)
    columns = events.columns()
    is_present = {name: columns[name] != spec.absent for name, spec in COLUMNS.items()}
    is_present["task"] = (events.task >= 0) & (events.task < len(trace.tasks))
    shape = events.kind.astype(np.int64)
    for name in ("user", "domid", "ref", "handle", "status", "call", "cpu", "task"):
        shape = shape << 1 | is_present[name]
    is_plain = events.mfn <= MAX_FRAME
    is_plain_page = events.pfn <= MAX_FRAME
    shape = shape << 2 | is_plain << 1 | is_plain_page

    lines = [""] * len(events)
    for each in np.unique(shape).tolist():
        rows = np.flatnonzero(shape == each)
        first = int(rows[0])
        spec = KIND_BY_CODE[int(events.kind[first])]
        template, fields = f"- {{time: %d, kind: {spec.name}", [events.time[rows].tolist()]
        for key, column in spec.keys.items():
            if key == "time" or (key not in spec.needs and not is_present[column][first]):
                continue
            values = columns[column][rows].tolist()
            if key in ("pfn", "mfn"):
                if values[0] <= MAX_FRAME:
                    template += f", {key}: 0x%x"
                else:
                    template += f", {key}: %s"
                    values = [format_frame(value) for value in values]
            elif key == "user":
                template += ", user: true"
                continue
            elif key == "task":
                template += ", task: %s"
                texts = {index: format_text(trace.tasks[index]) for index in set(values)}
                values = [texts[index] for index in values]
            else:
                template += f", {key}: %d"
                if key == "count":
                    values = [UNTOLD if value == ABSENT_COUNT else value for value in values]
            fields.append(values)
        template += "}\n"
        texts_of_rows = [template % row for row in zip(*fields, strict=True)]
        for index, line in zip(rows.tolist(), texts_of_rows, strict=True):
            lines[index] = line
    return lines


def _check(events: Events, first_event: int) -> None:
    """Raise InputError for an event that holds what a YAML trace cannot say."""
    for row in EVENT_ROWS.values():
        is_kind = events.kind == row.kind
        if not is_kind.any():
            continue
        for field in row.fields.values():
            column = getattr(events, field.column)
            wrong = np.flatnonzero(is_kind & _is_unsayable(column, field, field.key in row.needs))
            if len(wrong):
                value = int(column[wrong[0]])
                is_absent = value == COLUMNS[field.column].absent
                raise InputError(
                    f"event {first_event + int(wrong[0])}: '{field.key}' of {row.name} is "
                    f"{'absent' if is_absent else hex(value)}, which a YAML trace cannot say")


def _is_unsayable(column: Column, field: Field, is_needed: bool) -> Bools:
    """Which values of a column are neither in the field's range nor rightly absent."""
    if field.key in ("time", "count"):  # always said; a count of UNTOLD says absence
        return np.asarray(column < 0)
    is_absent: Bools = column == COLUMNS[field.column].absent
    if field.key not in ("pfn", "mfn"):
        # Unsigned columns hold no value out of range; task numbers have their absent one.
        is_low: Bools = column < field.low
        return (is_low & ~is_absent) | (is_absent & is_needed)
    frame = column
    if field.form == Form.ENTRY:
        # One bit off; an entry that has both and is not INVALID cannot be said.
        bit = np.where(column >= np.uint64(FOREIGN), np.uint64(FOREIGN), np.uint64(IDENTITY))
        frame = np.where(column & bit != 0, column ^ bit, column)
    is_high = np.asarray(frame > np.uint64(MAX_FRAME))
    if field.form == Form.NUMBER:
        return (is_high & ~is_absent) | (is_absent & is_needed)
    return is_high & ~is_absent
