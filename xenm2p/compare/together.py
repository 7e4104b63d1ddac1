"""Several replays of one trace in a single pass over its events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import tee

from xenm2p.engine.replay import Segment
from xenm2p.trace import Events, Trace

# Replays the trace that it is given.
Replay = Callable[[Trace], Iterator[Segment]]


def replay_together(
    trace: Trace, replays: Sequence[Replay]
) -> Iterator[tuple[int, Segment]]:
    """The segments of all replays, each with its replay's place in `replays`.

    The trace is read once, so that it may be a stream. The replay that is furthest behind
    goes on, so that no more than two chunks wait in memory for the others. Raises what
    reading the trace or a replay raises.
    """
    copies = tee(trace.chunks(), len(replays))
    running = {place: replay(_over(trace, copy))
               for place, (replay, copy) in enumerate(zip(replays, copies, strict=True))}
    del copies  # each replay lets go of the chunks that it has seen
    done = dict.fromkeys(running, 0)
    while running:
        place = min(running, key=lambda place: done[place])
        segment = next(running[place], None)
        if segment is None:
            del running[place]
            continue
        done[place] += len(segment.events)
        yield place, segment


def _over(trace: Trace, chunks: Iterator[Events]) -> Trace:
    """The trace with its chunks from an iterator, which can be read once."""
    return replace(trace, chunks_of=lambda: chunks, once=True)
