"""Unmaps that are not done because an earlier one of their call had failed (XM305).

clear_foreign_p2m_mapping, arch/x86/xen/p2m.c, ended its loop there before a35f2ef3b737
(5.12), as m2p_remove_override's callers did before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xenm2p.engine.order import Mask, head_rows, last_before, order_of
from xenm2p.engine.tables import Slot
from xenm2p.trace import I64, NO_CALL


@dataclass(frozen=True, slots=True)
class UnmapCalls:
    """The unmaps of a chunk that belong to a call, by call, then position: (u,).

    row of the pairs, pos in the chunk, call; `starts` the place of the first unmap of the
    call; `had_failed` whether the call had failed before the chunk.
    """

    row: Slot
    pos: Slot
    call: I64
    starts: Slot
    had_failed: Mask

    @classmethod
    def of(cls, is_unmap: Mask, pos: Slot, call: I64, failed: dict[int, int]) -> UnmapCalls:
        """From the kinds, positions and calls of all rows, (r,), and the calls that failed."""
        row = np.flatnonzero(is_unmap & (call != NO_CALL))
        row = row.take(order_of(call.take(row), pos.take(row)))
        pos, call = pos.take(row), call.take(row)
        is_head = head_rows(call)
        heads, group = np.flatnonzero(is_head), np.cumsum(is_head) - 1
        had_failed = np.isin(call.take(heads), list(failed)) if failed else (
            np.zeros(len(heads), np.bool_))
        return cls(row, pos, call, heads.take(group), had_failed.take(group))

    def aborted(self, fails: Mask) -> Mask:
        """Which rows (r,) are not done, where those of `fails` (r,) fail."""
        aborted = np.zeros(len(fails), np.bool_)
        follows = last_before(fails.take(self.row), self.starts) >= 0
        aborted[self.row[follows | self.had_failed]] = True
        return aborted

    def failed(self, fails: Mask) -> dict[int, int]:
        """The calls in which one of `fails` (r,) failed, and the position of the first."""
        at = np.flatnonzero(fails.take(self.row))
        at = at[head_rows(self.starts.take(at))]
        return dict(zip(self.call.take(at).tolist(), self.pos.take(at).tolist(), strict=True))
