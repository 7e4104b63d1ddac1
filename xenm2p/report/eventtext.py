"""One event of a trace as a line, without what only a replay knows."""

from __future__ import annotations

from xenm2p.trace import COLUMNS, INVALID, KIND_BY_CODE, Events, Trace, format_frame

_OPTIONAL = ("domid", "ref", "handle", "count")


def event_text(events: Events, row: int, trace: Trace, number: int) -> str:
    """``1200 map mfn 0x50010 pfn 0x8000 user ref 8``: number, kind, fields, task."""
    spec = KIND_BY_CODE[int(events.kind[row])]
    words = [str(number), spec.name]
    for key, column in spec.keys.items():
        value = int(getattr(events, column)[row])
        if key in ("pfn", "mfn"):
            words.append(f"{key} {format_frame(value)}")
        elif key == "user":
            words += ["user"] * bool(value)
        elif key == "status":
            words += [f"status {value}"] * bool(value)
        elif key == "task":
            name = trace.task_name(value)
            words += [] if name is None else [name]
        elif key == "cpu" and spec.name == "lost":
            words += [] if value == COLUMNS["cpu"].absent else [f"cpu {value}"]
        elif key in _OPTIONAL:
            absent = COLUMNS[column].absent
            words += [] if value in (absent, INVALID) else [f"{key} {value}"]
    return " ".join(words)
