"""One line of what a bpftrace program of ours prints, read with care: see bpftrace_lines.py.

The whole format is in xenm2p-trace(5). bpftrace cannot escape what a task's name holds, so
that a line is JSON only up to the name, which is its last value.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from xenm2p.errors import InputError
from xenm2p.formats.ftrace_ops import COUNT_LIMIT
from xenm2p.formats.numbers import parse_int, quote
from xenm2p.formats.probes import PROBES

VERSION = 1

# What numbers may be; others may be any of 64 bits.
RANGES: dict[str, tuple[int, int]] = {
    "time": (0, (1 << 63) - 1),
    "cpu": (0, (1 << 15) - 1),
    "pid": (0, (1 << 32) - 1),
    "count": (0, COUNT_LIMIT),
    "index": (0, COUNT_LIMIT),
    "domid": (0, 0xFFFF),
    "ref": (0, 0xFFFFFFFF),
    "handle": (0, 0xFFFFFFFF),
    "status": (-(1 << 15), 0xFFFF),
    "events": (0, (1 << 63) - 1),
}
_ANY = (-(1 << 63), (1 << 64) - 1)

_ALWAYS = ("time", "cpu", "pid")
CALL_FIELDS = ("call", "count", "kmap")
PAGE_FIELDS = ("call", "index", "host_addr", "flags", "ref", "domid", "status", "handle",
               "dev_bus_addr", "page")
KNOWN = frozenset({
    *_ALWAYS, *CALL_FIELDS, *PAGE_FIELDS, "ret", "kmap_op",
    *(name for probe in PROBES for argument in (*probe.needs, *probe.wants)
      for name in probe.names_of(argument))})

_COMM = b',"comm":"'
_LOST = re.compile(rb"Lost (\d{1,18}) events")
# What bpftrace says beside what the program prints
_CHATTER = re.compile(rb"Attaching \d+ probes?\.\.\.|ready|")


@dataclass(frozen=True, slots=True)
class Record:
    """One event: the probe's name, its numbers (of 64 bits, unsigned), and whose it is."""

    probe: str
    numbers: dict[str, int]
    comm: bytes


@dataclass(frozen=True, slots=True)
class LostRecord:
    """Events that bpftrace lost; `cpu` where it is known."""

    events: int
    cpu: int | None


@dataclass(frozen=True, slots=True)
class Header:
    """The first line: what is known of the machine."""

    kernel: str | None
    vmemmap_base: int | None


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What one object of ``bpftrace -f json`` holds: lines of text, or a loss."""

    lines: list[bytes] = field(default_factory=list)
    lost: LostRecord | None = None


Parsed = Record | LostRecord | Header | Unwrapped | None


def is_chatter(line: bytes) -> bool:
    """Whether a line is one that bpftrace prints of itself."""
    return _CHATTER.fullmatch(line.strip()) is not None


def is_begin(line: bytes) -> bool:
    """Whether a name that holds newlines may have broken a line after this."""
    at = line.find(_COMM)
    return line.startswith(b"{") and at >= 0 and not line.endswith(b'"}')


def parse_line(line: bytes, source: str, place: int) -> Parsed:
    """What a line is; None where it is nothing of ours.

    Raises InputError, naming the line and the field, for an object that is none or of
    which a value is missing, of a wrong type or out of range.
    """
    lost = _LOST.match(line)
    if lost is not None:
        return LostRecord(int(lost[1]), None)
    if not line.startswith(b"{"):
        return None
    # The name is the last value: nothing after the first `"comm":` is looked at as JSON.
    body, has_comm, comm = line.partition(_COMM)
    if has_comm and comm.endswith(b'"}'):
        text = body + b"}"
    else:
        text, comm = line, b'"}'
    try:
        found = json.loads(text.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else (
            "it is too deep" if isinstance(error, RecursionError) else "a number is too long")
        raise InputError(f"not a JSON object: {why}", source=source, place=place) from None
    if "xenm2p" in found:
        return _header(found, source, place)
    if "type" in found and "probe" not in found:
        return _unwrapped(found, source, place)
    return _record(found, comm.removesuffix(b'"}'), source, place)


def _header(found: dict[str, Any], source: str, place: int) -> Header:
    version = found.get("version")
    if found["xenm2p"] != "capture" or version != VERSION:
        raise InputError(f"version {version!r} of {quote(str(found['xenm2p']))} is not known: "
                         f"this program reads version {VERSION} of 'capture'",
                         source=source, place=place)
    kernel = found.get("kernel")
    if kernel is not None and not isinstance(kernel, str):
        raise _wrong("kernel", kernel, "a string", source, place)
    base = found.get("vmemmap_base")
    return Header(kernel, None if base is None else
                  _number("vmemmap_base", base, source, place) % (1 << 64))


def _unwrapped(found: dict[str, Any], source: str, place: int) -> Unwrapped | None:
    """An object of ``bpftrace -f json``."""
    kind, data = found["type"], found.get("data")
    if kind == "lost_events":
        if not isinstance(data, dict) or "events" not in data:
            raise _wrong("data", data, "an object with 'events'", source, place)
        return Unwrapped(lost=LostRecord(_number("events", data["events"], source, place), None))
    if kind != "printf":
        return None
    if not isinstance(data, str):
        raise _wrong("data", data, "a string", source, place)
    return Unwrapped([_bytes(data).removesuffix(b"\n")])


def _bytes(text: str) -> bytes:
    """The bytes that JSON text stood for, also where they are no UTF-8."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # \\ud800 and the like, which stand for no byte
        return text.encode("utf-8", "replace")


def _record(found: dict[str, Any], comm: bytes, source: str, place: int) -> Parsed:
    name = found.get("probe")
    if not isinstance(name, str):
        raise _missing("event", "probe", found, source, place) if name is None else _wrong(
            "probe", name, "a string", source, place)
    if name == "lost":
        if "count" not in found:
            raise _missing(name, "count", found, source, place)
        cpu = found.get("cpu")
        return LostRecord(_in_range("events", "count", found["count"], source, place),
                          None if cpu is None else _number("cpu", cpu, source, place))
    numbers = {}
    for key in _ALWAYS:
        if key not in found:
            raise _missing(name, key, found, source, place)
    for key, value in found.items():
        # What others add to our fields may be anything.
        if key in KNOWN or (type(value) is int and _ANY[0] <= value <= _ANY[1]):
            numbers[key] = _number(key, value, source, place) % (1 << 64)
    if isinstance(found.get("comm"), str):  # not as the last value, so that it is JSON
        comm = _bytes(found["comm"])
    return Record(name, numbers, comm)


def _number(key: str, value: object, source: str, place: int) -> int:
    return _in_range(key, key, value, source, place)


def _in_range(of: str, key: str, value: object, source: str, place: int) -> int:
    if isinstance(value, str):
        try:
            value = parse_int(value)
        except ValueError:
            raise _wrong(key, value, "an integer", source, place) from None
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(key, value, "an integer", source, place)
    low, high = RANGES.get(of, _ANY)
    if not low <= value <= high:
        raise InputError(f"'{key}' is {quote(str(value))}, out of range ({low} to {high})",
                         source=source, place=place)
    return value


def _wrong(key: str, value: object, wanted: str, source: str, place: int) -> InputError:
    return InputError(f"'{key}' is {quote(json.dumps(value))}, not {wanted}",
                      source=source, place=place)


def _missing(name: str, key: str, found: dict[str, Any], source: str, place: int) -> InputError:
    have = ", ".join(list(found)[:12]) or "nothing"
    return InputError(f"{quote(name)[1:-1]}: '{key}' is missing (have {have})",
                      source=source, place=place)
