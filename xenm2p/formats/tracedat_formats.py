"""trace.dat: event formats, as tracefs has them, and the symbols that records point to.

Each format is the text of events/SYSTEM/EVENT/format: where in a record its fields are.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from xenm2p.formats.ftrace_fields import Head, head_of
from xenm2p.formats.probes import BY_FUNCTION
from xenm2p.formats.tracedat_layout import Layout

_NAME = re.compile(rb"^name: *(\S+)", re.MULTILINE)
_ID = re.compile(rb"^ID: *(\d{1,5})\s*$", re.MULTILINE)
_FIELD = re.compile(
    rb"field:(?P<type>[^;]*?)(?P<name>\w+)(?P<array>\[[^\]]*\])?;"
    rb"\s*offset:(?P<offset>\d{1,5});\s*size:(?P<size>\d{1,5});(?:\s*signed:(?P<signed>[01]);)?")
_SYMBOL = re.compile(rb"^([0-9a-f]{8,16}) [tTwW] ([^\s.]+)\S*", re.MULTILINE)
_NUMBER_SIZES = (1, 2, 4, 8)
# Symbols below are offsets in per-cpu areas, or addresses that were hidden.
_FIRST_ADDRESS = 1 << 32
_MOST_OF_A_FUNCTION = 1 << 20


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record: its bytes, and whether it is a number, an array or elsewhere."""

    offset: int
    size: int
    is_signed: bool = False
    is_array: bool = False
    is_elsewhere: bool = False  # __data_loc: what is here says where in the record it is

    @property
    def end(self) -> int:
        """The offset of what follows it."""
        return self.offset + self.size

    @property
    def is_number(self) -> bool:
        """Whether it is one number."""
        return self.size in _NUMBER_SIZES and not self.is_array and not self.is_elsewhere


@dataclass(frozen=True, slots=True)
class EventFormat:
    """The format of one event: its number in records, name, and fields in order.

    `common` are the fields that all events begin with, `fields` its own; those that a
    kprobe adds of itself, ``__probe_ip`` and the like, are in `probe`.
    """

    number: int
    name: str
    common: dict[str, Field]
    fields: dict[str, Field]
    probe: dict[str, Field]


def formats_of(layout: Layout) -> dict[int, EventFormat]:
    """The formats in a file by their numbers; texts that are none are left out."""
    found = {}
    for _, text in layout.formats:
        name, number = _NAME.search(text), _ID.search(text)
        if name is None or number is None:
            continue
        parts: tuple[dict[str, Field], ...] = ({}, {}, {})
        for match in _FIELD.finditer(text):
            key = match["name"].decode()
            part = parts[0 if key.startswith("common_") else 2 if key.startswith("__probe_")
                         else 1]
            part[key] = Field(
                int(match["offset"]), int(match["size"]), match["signed"] == b"1",
                match["array"] is not None and b"__data_loc" not in match["type"],
                b"__data_loc" in match["type"] or b"__rel_loc" in match["type"])
        event = name[1].decode("utf-8", "backslashreplace")
        found[int(number[1])] = EventFormat(int(number[1]), event, *parts)
    return found


@dataclass(frozen=True, slots=True)
class Symbols:
    """The kernel's functions by their addresses, which are in order."""

    addresses: list[int]
    names: list[bytes]

    @classmethod
    def of(cls, kallsyms: bytes) -> Symbols:
        """The functions in the text of /proc/kallsyms; of several names of one, ours."""
        rows = _SYMBOL.findall(kallsyms)
        address = np.array([int(row[0], 16) for row in rows], np.uint64)
        is_ours = np.array([row[1].decode("latin-1") in BY_FUNCTION for row in rows], np.bool_)
        order = np.lexsort((is_ours, address))
        order = order[address[order] >= np.uint64(_FIRST_ADDRESS)]
        return cls(address[order].tolist(), [rows[row][1] for row in order.tolist()])

    def at(self, address: int) -> bytes | None:
        """The function that an address is in, as ``name+0xOFFSET/0xSIZE``."""
        row = bisect_right(self.addresses, address) - 1
        if row < 0:
            return None
        last = row + 1 == len(self.names)
        size = _MOST_OF_A_FUNCTION if last else self.addresses[row + 1] - self.addresses[row]
        offset = address - self.addresses[row]
        if offset >= min(size, _MOST_OF_A_FUNCTION):
            return None
        return b"%s+0x%x/0x%x" % (self.names[row], offset, size)


def head_at(event: EventFormat, address: int | None, symbols: Symbols) -> Head:
    """What an event means, as ftrace's text would have it; `address` is the probed place.

    The name of the event stands for the function where no symbol is at the address.
    """
    name = event.name.encode()
    at = None if address is None else symbols.at(address)
    returns = "__probe_func" in event.probe
    if at is None:
        place = b"" if address is None else b"__probe_%s=0x%x " % (
            b"ret_ip" if returns else b"ip", address)
    elif returns:
        place = b"(0x0 <- %s) " % at.partition(b"+")[0]
    else:
        place = b"(%s) " % at
    head = head_of(name + b": " + place)
    return Head(name, event.name, None, False) if head is None else head


def address_field(event: EventFormat) -> Field | None:
    """Where a record has the address of the probed function, None for tracepoints."""
    return event.probe.get("__probe_func") or event.probe.get("__probe_ip")


def common_field(formats: Iterable[EventFormat], name: str, size: int) -> Field | None:
    """A field that is at the same place in all formats; None where it is not."""
    found = {event.common.get(name) for event in formats}
    if len(found) != 1:
        return None
    field = found.pop()
    return field if field is not None and field.size == size else None
