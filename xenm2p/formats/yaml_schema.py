"""What a YAML trace may hold: its sections, the fields of their rows, the range of each.

Made from the tables of `trace`, where kinds and columns come from; the strict parser, the
fast path and the writer all read these.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from xenm2p.trace import COLUMNS, KINDS, MAX_FRAME, NO_REF

FORMAT = "xenm2p-trace"
VERSION = 1
SCALARS = ("format", "version", "kernel", "domain", "origin")
SECTIONS = ("memory", "m2p", "events")


class Form(IntEnum):
    """How a frame field may be written; each form includes those before it."""

    NUMBER = 0
    INVALID = 1  # or `invalid`
    ENTRY = 2  # or `invalid`, `F:0x1a2b`, `I:0x1a2b`


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a row: the column that carries it and, for a number, its range."""

    key: str
    column: str
    low: int
    high: int
    form: Form = Form.NUMBER


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of row: its name, the fields that it may have, the keys that it must have."""

    name: str
    fields: dict[str, Field]
    needs: tuple[str, ...]
    kind: int = 0


# p2m entries take every form; the frame of a map, of mfn_to_pfn and the page of an m2p
# entry may also be invalid.
_FORMS = {
    ("set_p2m", "mfn"): Form.ENTRY,
    ("p2m_write", "mfn"): Form.ENTRY,
    ("set_m2p", "pfn"): Form.INVALID,
    ("map", "mfn"): Form.INVALID,
    ("lookup", "mfn"): Form.INVALID,
}


def _range_of(column: str) -> tuple[int, int]:
    """The smallest and largest value of a column that is not its absent sentinel."""
    if column in ("pfn", "mfn"):
        return 0, MAX_FRAME
    if column == "user":
        return 0, 1
    spec = COLUMNS[column]
    info = np.iinfo(spec.dtype)
    low = int(info.min) if column == "status" else 0
    return low, int(info.max) - (spec.absent == info.max)


def _event_rows() -> dict[str, Row]:
    rows = {}
    for spec in KINDS.values():
        fields = {}
        for key, column in spec.keys.items():
            form = _FORMS.get((spec.name, key), Form.NUMBER)
            fields[key] = Field(key, column, *_range_of(column), form)
        rows[spec.name] = Row(spec.name, fields, ("time", *spec.needs), int(spec.kind))
    return rows


# `count` of a `lost` event: 0 says that the tracer did not tell how many, which in the
# column is absent. No tracer marks a loss of nothing.
UNTOLD = 0
ABSENT_COUNT = NO_REF

EVENT_ROWS = _event_rows()

_COUNT = Field("count", "count", 1, MAX_FRAME + 1)
MEMORY_ROW = Row(
    "memory row",
    {
        "pfn": Field("pfn", "start", 0, MAX_FRAME),
        "mfn": Field("mfn", "value", 0, MAX_FRAME, Form.ENTRY),
        "count": _COUNT,
    },
    ("pfn",),
)
M2P_ROW = Row(
    "m2p row",
    {
        "mfn": Field("mfn", "start", 0, MAX_FRAME),
        "pfn": Field("pfn", "value", 0, MAX_FRAME, Form.INVALID),
        "count": _COUNT,
    },
    ("mfn", "pfn"),
)
RUN_ROWS = {"memory": MEMORY_ROW, "m2p": M2P_ROW}

# Every key that some event takes, in a fixed order, with the kinds that take it.
EVENT_KEYS: dict[str, list[str]] = {"time": list(KINDS), "kind": list(KINDS)}
for _row in EVENT_ROWS.values():
    for _key in _row.fields:
        if _row.name not in EVENT_KEYS.setdefault(_key, []):
            EVENT_KEYS[_key].append(_row.name)
