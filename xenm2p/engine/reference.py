"""The specification: one event at a time, plain, slow, obviously right.

`vector.replay` must give the same segments on every trace. What a kernel does is in
`rules`, what is seen of it in `observe`, and what that means for page locks in `locks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from xenm2p.engine.memory import entry_in, m2p_rows, p2m_rows
from xenm2p.engine.observe import Observer
from xenm2p.engine.replay import Options, Segment
from xenm2p.engine.rules import Entries, Machine
from xenm2p.engine.scalar import replay_chunk
from xenm2p.kernels import KernelModel
from xenm2p.trace import Trace


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
        yield replay_chunk(observer, chunk, number)
        number += len(chunk)
    observer.finish()
    yield observer.closing_segment(number)
