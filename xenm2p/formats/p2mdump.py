"""Linux's own p2m table as text: one line a run of entries.

    # Linux p2m (xen_p2m_addr) size=0xc0000 entries; ...
    pfn=0x0-0x9e type=LOCAL mfn=0x130000 step=+1
    pfn=0x9f-0xff type=IDENTITY mfn=0x400000000000009f step=+1
    pfn=0x8ffff-0x8ffff type=FOREIGN mfn=0x8000000000044206
    pfn=0x90000-0xbffff type=INVALID mfn=0xffffffffffffffff
    # totals {'LOCAL': 524288, ...}

Both ends of a run belong to it. `mfn` is the first entry with its bits as the kernel
holds them; the next one is one more with ``step=+1``, one less with ``step=-1``, and without
a step all are alike, which only INVALID can be. Where the dump ends with its totals they are
compared with what was read, so that a dump with lines missing does not pass for a whole one.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import BinaryIO

from xenm2p.errors import InputError, unknown
from xenm2p.trace import FOREIGN, FRAME_MASK, IDENTITY, INVALID, MAX_FRAME, Runs

_LINE_LIMIT = 4096
_RUN = re.compile(
    rb"pfn=0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16}) type=(\w{1,32}) mfn=0x([0-9a-f]{1,16})"
    rb"(?: step=([+-]1))?"
)
_TOTAL = re.compile(rb"'(\w{1,32})': (\d{1,20})")
_TYPES = ("LOCAL", "IDENTITY", "FOREIGN", "INVALID")
# A falling run becomes a row a page; the longest of a real dump has some ten thousand.
_FALLING_LIMIT = 1 << 22


def looks_like_p2m_dump(first_bytes: bytes) -> bool:
    """Whether a file that begins so is a p2m dump."""
    return first_bytes.startswith(b"# Linux p2m") or _RUN.match(first_bytes) is not None


def _type_of(entry: int) -> str:
    if entry == INVALID:
        return "INVALID"
    if entry & FOREIGN:
        return "FOREIGN"
    return "IDENTITY" if entry & IDENTITY else "LOCAL"


def _rows_of(text: bytes, source: str, place: int) -> tuple[str, list[tuple[int, int, int]]]:
    """The type of one line's entries and its (pfn, entry, count) rows."""

    def refuse(reason: str) -> InputError:
        return InputError(reason, source=source, place=place)

    match = _RUN.fullmatch(text)
    if match is None:
        raise refuse("not a run of p2m entries (pfn=0x..-0x.. type=.. mfn=0x..)")
    first, last, value = (int(match[i], 16) for i in (1, 2, 4))
    named = match[3].decode()
    if named not in _TYPES:
        raise refuse(unknown("type", named, _TYPES))
    if not first <= last <= MAX_FRAME:
        raise refuse(f"0x{first:x}-0x{last:x} is not a range of pfns")
    if _type_of(value) != named:
        raise refuse(f"mfn=0x{value:x} is of type {_type_of(value)}, not {named}")
    count = last - first + 1
    if value == INVALID or count == 1:
        return named, [(first, value, count)]
    if match[5] is None:
        raise refuse("a run of more than one entry needs step=+1 or step=-1")
    step = int(match[5])
    last_frame = (value & FRAME_MASK) + step * (count - 1)
    if not 0 <= last_frame <= MAX_FRAME:
        raise refuse(f"mfn=0x{value:x} runs out of the frames 0x0-0x{MAX_FRAME:x}")
    if step == 1:
        return named, [(first, value, count)]
    if count > _FALLING_LIMIT:
        raise refuse(f"a falling run of {count} entries is more than {_FALLING_LIMIT}")
    return named, [(first + i, value - i, 1) for i in range(count)]


def read_p2m_dump(stream: BinaryIO, source: str) -> Runs:
    """Read a dump into p2m runs keyed by pfn, as `Trace.memory` holds them.

    Values are plain frames, I:frame, F:frame or INVALID. Memory is that of the runs.
    Raises InputError, naming the line, for a line that is not a run, a type that its entry
    is not of, runs that overlap or go backwards, a dump cut short, and one without a run.
    """
    rows: list[tuple[int, int, int]] = []
    seen: Counter[str] = Counter()
    place = 0
    below = 0
    falling_rows = 0
    while line := stream.readline(_LINE_LIMIT):
        place += 1
        if not line.endswith(b"\n"):
            what = "the line is cut short" if len(line) < _LINE_LIMIT else "the line is too long"
            raise InputError(what, source=source, place=place)
        text = line.strip()
        if text.startswith(b"# totals"):
            totals = {name.decode(): int(number) for name, number in _TOTAL.findall(text)}
            if totals != dict(seen):
                raise InputError(f"the dump's totals are {totals}, its lines give {dict(seen)}",
                                 source=source, place=place)
        if not text or text.startswith(b"#"):
            continue
        named, entries = _rows_of(text, source, place)
        if entries[0][0] < below:
            raise InputError(f"pfn 0x{entries[0][0]:x} comes after 0x{below - 1:x}",
                             source=source, place=place)
        below = entries[-1][0] + entries[-1][2]
        seen[named] += below - entries[0][0]
        falling_rows += len(entries) - 1
        if falling_rows > _FALLING_LIMIT:
            raise InputError(f"more than {_FALLING_LIMIT} entries in falling runs",
                             source=source, place=place)
        rows += entries
    if not rows:
        raise InputError("no run of p2m entries in it", source=source)
    return Runs.of(rows)
