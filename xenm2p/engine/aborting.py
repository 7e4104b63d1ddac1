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

NEVER = 1 << 62  # a position that no event has


@dataclass(frozen=True, slots=True)
class UnmapCalls:
    """The unmaps of a chunk that belong to a call, by call, then position: (u,).

    row of the pairs, pos in the chunk, call; `starts` the place of the first unmap of the
    call; `failed_at` the position of the unmap that failed in the call before the chunk, less
    than 0, or NEVER. `fails` (r,) are the failing unmaps among the pairs' rows.
    """

    row: Slot
    pos: Slot
    call: I64
    starts: Slot
    failed_at: Slot

    @classmethod
    def of(cls, is_unmap: Mask, pos: Slot, call: I64, failed: dict[int, int]) -> UnmapCalls:
        """From the kinds, positions and calls of all rows, (r,), and the calls that failed.

        `failed` gives the position of the unmap that failed first, for each such call.
        """
        row = np.flatnonzero(is_unmap & (call != NO_CALL))
        row = row.take(order_of(call.take(row), pos.take(row)))
        pos, call = pos.take(row), call.take(row)
        is_head = head_rows(call)
        heads, group = np.flatnonzero(is_head), np.cumsum(is_head) - 1
        failed_at = np.full(len(heads), NEVER)
        if failed:
            had_failed = np.flatnonzero(np.isin(call.take(heads), list(failed)))
            failed_at[had_failed] = [
                failed[each] for each in call.take(heads.take(had_failed)).tolist()]
        return cls(row, pos, call, heads.take(group), failed_at.take(group))

    def ended_by(self, fails: Mask) -> Slot:
        """The position of the failed unmap that ended the call of each row (r,) before it.

        NEVER for rows whose call had not ended, or that belong to none.
        """
        last = last_before(fails.take(self.row), self.starts)
        ended_by = np.full(len(fails), NEVER)
        ended_by[self.row] = np.where(
            last >= 0, self.pos.take(last, mode="wrap"), self.failed_at)
        return ended_by

    def failed(self, fails: Mask) -> dict[int, int]:
        """The calls in which one of `fails` failed, and the position of the first."""
        at = np.flatnonzero(fails.take(self.row))
        at = at[head_rows(self.starts.take(at))]
        return dict(zip(self.call.take(at).tolist(), self.pos.take(at).tolist(), strict=True))
