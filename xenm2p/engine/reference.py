"""The specification: one event at a time, plain, slow, obviously right.

`vector.replay` must give the same segments on every trace. What a kernel does is in
`rules`, what is seen of it in `observe`, and what that means for page locks in `locks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from xenm2p.engine.memory import entry_in, m2p_rows, p2m_rows
from xenm2p.engine.observe import Observer
from xenm2p.engine.replay import Options, Segment
from xenm2p.engine.rules import Entries, Event, Machine, step
from xenm2p.kernels import KernelModel
from xenm2p.trace import Events, Trace


def replay(
    trace: Trace, model: KernelModel, options: Options | None = None
) -> Iterator[Segment]:
    """Replay `trace` under `model`, one segment a chunk and one for the end.

    Raises what reading the trace raises.
    """
    options = options or Options()
    machine = Machine(
        model,
        p2m=Entries(partial(entry_in, p2m_rows(trace))),
        m2p=Entries(partial(entry_in, m2p_rows(trace))),
    )
    observer = Observer(machine, trace.domain, options)
    number = 0
    for chunk in trace.chunks():
        results = np.zeros(len(chunk), np.uint8)
        warnings = np.zeros(len(chunk), np.uint8)
        first = number
        for event in _rows(chunk, first):
            outcome = step(machine, event)
            results[number - first] = outcome.result
            warnings[number - first] = outcome.warnings
            observer.observe(event, outcome)
            number += 1
        yield observer.segment(first, chunk, results, warnings)
    observer.finish()
    nothing = np.zeros(0, np.uint8)
    yield observer.segment(number, Events.from_columns(0), nothing, nothing, last=True)


def _rows(chunk: Events, first: int) -> Iterator[Event]:
    columns = [column.tolist() for column in chunk.columns().values()]
    for i, (time, kind, pfn, mfn, user, *rest) in enumerate(zip(*columns, strict=True)):
        yield Event(first + i, time, kind, pfn, mfn, bool(user), *rest)
