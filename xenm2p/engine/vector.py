"""The vector engine: whole chunks at once with numpy, the same outcome as `reference`.

A chunk is sorted by page, so that each unmap stands behind its map (`pairing`), and its
shares by frame, so that the first and the last of a frame show (`sharing`). Pages whose
state is plain, which is all of them in a well-formed trace, need no more. What neither
can say exactly is left to the rules (`scalar`), for the shortest run of events that will do.
Memory is bounded by the chunk and by the pages and frames that were touched.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xenm2p.engine.observe import Observer
from xenm2p.engine.plain import replay_plain
from xenm2p.engine.replay import Options, Segment
from xenm2p.engine.rules import Entries, Machine
from xenm2p.engine.scalar import put_back, replay_chunk, take_out
from xenm2p.engine.tables import Tables
from xenm2p.kernels import KernelModel
from xenm2p.trace import INVALID, Events, Trace

CHUNK = 1 << 16
# A chunk that is not plain is cut in two, down to this: below, sorting costs more than it saves.
SHORTEST = 1 << 10


def replay(
    trace: Trace, model: KernelModel, options: Options | None = None, *, chunk: int = CHUNK
) -> Iterator[Segment]:
    """Replay `trace` under `model`, at most `chunk` events a segment, one more for the end.

    Raises what reading the trace raises.
    """
    _keep_freed_memory()
    tables, observer = _begin(trace, model, options or Options())
    number = 0
    for events in trace.chunks(min(chunk, CHUNK)):
        yield from _replay_events(tables, observer, events, number)
        number += len(events)
    take_out(tables, model, observer)
    observer.finish()
    yield observer.closing_segment(number)


def replay_to_end(trace: Trace, model: KernelModel) -> tuple[Tables, Observer]:
    """What the tables and an observer hold after the last event of `trace`.

    The observer's machine has all shares, pages and override lists; which p2m and m2p
    entries were touched, the tables tell. Raises what reading the trace raises.
    """
    tables, observer = _begin(trace, model, Options(judge_writes=False, details=False))
    number = 0
    for events in trace.chunks(CHUNK):
        for _ in _replay_events(tables, observer, events, number):
            pass
        number += len(events)
    take_out(tables, model, observer)
    return tables, observer


def _begin(trace: Trace, model: KernelModel, options: Options) -> tuple[Tables, Observer]:
    machine = Machine(model, Entries(lambda _: INVALID), Entries(lambda _: INVALID))
    return Tables.of(trace), Observer(machine, trace.domain, options)


def _keep_freed_memory() -> None:
    """Let the arrays of a chunk be made in the memory of those of the chunk before.

    glibc gives a freed block of their size back to the kernel, and the next one costs a
    page fault for each 4 KiB, a tenth of a replay's time; unless a larger block has been
    freed before (mallopt(3), M_MMAP_THRESHOLD). This one is never written, so never there.
    """
    np.empty(30 << 20, np.uint8)


def _replay_events(
    tables: Tables, observer: Observer, events: Events, first: int
) -> Iterator[Segment]:
    segment = replay_plain(tables, observer, events, first)
    if segment is not None:
        yield segment
    elif len(events) > SHORTEST:
        half = len(events) // 2
        yield from _replay_events(tables, observer, events.rows(slice(0, half)), first)
        yield from _replay_events(tables, observer, events.rows(slice(half, None)), first + half)
    else:
        take_out(tables, observer.machine.model, observer, events)
        yield replay_chunk(observer, events, first)
        put_back(tables, observer)
