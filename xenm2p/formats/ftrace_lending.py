"""ftrace text: what calls that were read at once lack, from their lines before the hypercall.

The same as `ftrace_ops.lend`, where the later line shows no page at all; other calls are
left to that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.ftrace_lines import Mask
from xenm2p.formats.ftrace_op_arrays import CallArrays
from xenm2p.formats.ftrace_ops import STATUS_UNKNOWN, USER_UNKNOWN
from xenm2p.trace import I64, INVALID

Pages = NDArray[Any]


def pages_of(calls: CallArrays) -> I64:
    """How many pages each call shows."""
    return np.bincount(calls.page_call, minlength=len(calls.rows))


def knows_all(calls: CallArrays) -> Mask:
    """Which calls need nothing of the line before them."""
    first = np.searchsorted(calls.page_call, np.arange(len(calls.rows)))
    has_pages = pages_of(calls) > 0
    first_page = np.zeros(len(calls.rows), np.uint64)
    first_page[has_pages] = calls.page[first[has_pages]]
    knows: Mask = (calls.user != USER_UNKNOWN) & ((calls.count == 0) | (first_page != 0))
    return knows


def kept(calls: CallArrays, keep: Mask) -> CallArrays:
    """Some of the calls, with their pages."""
    number = np.cumsum(keep) - 1
    of_kept = keep[calls.page_call]
    return replace(
        calls, rows=calls.rows[keep], count=calls.count[keep], user=calls.user[keep],
        page_call=number[calls.page_call[of_kept]], page=calls.page[of_kept],
        mfn=calls.mfn[of_kept], domid=calls.domid[of_kept], ref=calls.ref[of_kept],
        handle=calls.handle[of_kept], status=calls.status[of_kept])


def lend_at_once(calls: CallArrays, before: CallArrays, lender: I64) -> CallArrays:
    """Calls with what the line before them shows: call `lender` of `before`, -1 for none.

    Only calls that show no page are lent any.
    """
    has_lender = lender >= 0
    user = np.where(has_lender & (calls.user == USER_UNKNOWN),
                    before.user[np.maximum(lender, 0)], calls.user)
    borrower = np.full(len(before.rows), -1, np.int64)
    takes = has_lender & (pages_of(calls) == 0)
    borrower[lender[takes]] = np.flatnonzero(takes)
    lent = borrower[before.page_call] >= 0
    call = np.concatenate([calls.page_call, borrower[before.page_call[lent]]])
    order = np.argsort(call, kind="stable")
    added = int(lent.sum())

    def column(own: Pages, others: Pages) -> Pages:
        return np.concatenate([own, others])[order]

    return replace(
        calls, user=user, page_call=call[order], page=column(calls.page, before.page[lent]),
        mfn=column(calls.mfn, np.full(added, INVALID, np.uint64)),
        domid=column(calls.domid, before.domid[lent]), ref=column(calls.ref, before.ref[lent]),
        handle=column(calls.handle, before.handle[lent]),
        status=column(calls.status, np.full(added, STATUS_UNKNOWN, np.int64)))
