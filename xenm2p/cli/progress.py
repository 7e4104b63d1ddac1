"""A progress bar on standard error: only on a terminal, only when it takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO, TypeVar

Piece = TypeVar("Piece")

_PATIENCE = 1.0  # seconds before a bar is shown at all
_INTERVAL = 0.1  # seconds between two drawings of it
_WIDTH = 30


def with_progress(
    pieces: Iterator[Piece], events_of: Callable[[Piece], int], length: int | None, *,
    wanted: bool, stream: TextIO | None = None,
) -> Iterator[Piece]:
    """The pieces, drawing on `stream` (standard error) how far they are.

    `events_of` gives a piece's number of events, `length` that of all that will come, None
    where nobody knows.
    """
    stream = stream or sys.stderr
    if not wanted or stream is None or not stream.isatty():
        yield from pieces
        return
    next_time = time.monotonic() + _PATIENCE
    done, drawn = 0, False
    try:
        for piece in pieces:
            done += events_of(piece)
            if time.monotonic() >= next_time:
                stream.write("\r" + progress_line(done, length))
                stream.flush()
                drawn = True
                next_time = time.monotonic() + _INTERVAL
            yield piece
    finally:
        if drawn:
            stream.write("\r\x1b[K")
            stream.flush()


def progress_line(done: int, length: int | None) -> str:
    """``[######----] 40% 4,000 of 10,000 events``; without a length only the count."""
    if not length:
        return f"{done:,} events"
    filled = min(_WIDTH, done * _WIDTH // length)
    bar = "#" * filled + "-" * (_WIDTH - filled)
    return f"[{bar}] {min(100, done * 100 // length)}% {done:,} of {length:,} events"
