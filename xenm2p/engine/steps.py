"""One lookup step by step, on the tables as they are after an event.

What `rules.mfn_to_pfn` answers is not new here; these are the values that it compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from xenm2p.engine.memory import entry_in, m2p_rows, p2m_rows
from xenm2p.engine.rules import Entries, Machine, mfn_to_pfn, step
from xenm2p.engine.scalar import events_of
from xenm2p.kernels import KernelModel, bucket_of
from xenm2p.trace import I64, IDENTITY, INVALID, Events, Trace


@dataclass(frozen=True, slots=True)
class Lookup:
    """mfn_to_pfn(mfn), arch/x86/include/asm/xen/page.h, in its own steps.

    owner: m2p[mfn]. entry: p2m[owner], INVALID where there is no owner. searched: the pages
    of the frame's override list, newest first, with the frame in each page's private;
    None where the list was not asked or the model has none. bucket: of that list. identity:
    p2m[mfn] is I(mfn). answer: the page, None for none.
    """

    mfn: int
    owner: int
    entry: int
    bucket: int | None
    searched: tuple[tuple[int, int], ...] | None
    identity: bool
    answer: int | None


def machine_at(trace: Trace, model: KernelModel, numbers: I64, event: int) -> Machine:
    """The tables after event `event`, of a trace whose events have `numbers` (n,)."""
    machine = Machine(
        model,
        p2m=Entries(partial(entry_in, p2m_rows(trace))),
        m2p=Entries(partial(entry_in, m2p_rows(trace))),
    )
    first = 0
    for chunk in trace.chunks():
        for row in events_of(_until(chunk, numbers[first:first + len(chunk)], event), first):
            step(machine, row)
        first += len(chunk)
    return machine


def _until(chunk: Events, numbers: I64, event: int) -> Events:
    return chunk.rows(slice(0, int((numbers <= event).sum())))


def lookup_steps(machine: Machine, mfn: int) -> Lookup:
    """What mfn_to_pfn looks at for `mfn`, and what it answers."""
    owner = machine.m2p[mfn]
    entry = INVALID if owner == INVALID else machine.p2m[owner]
    answer, _ = mfn_to_pfn(machine, mfn)
    asks_list = entry != mfn and machine.model.overrides
    bucket = bucket_of(mfn) if asks_list else None
    searched = tuple(
        (pfn, machine.pages[pfn].private_mfn) for pfn in machine.overrides.get(bucket, ())
    ) if bucket is not None else None
    return Lookup(mfn, owner, entry, bucket, searched,
                  mfn != INVALID and machine.p2m[mfn] == mfn | IDENTITY, answer)
