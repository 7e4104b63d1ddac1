"""Pages that stay on an override list without the share that put them there.

Since 1429d46df4c5 (3.15) only an unmap with kmap_ops takes a page off its list, and only a
map with them puts it there: an unmap without leaves the page listed, and what the next
event of the page comes to hangs on whether it is mapped and on whether it is listed. Each
event is a function of these two bits, and functions can be put together two by two, so
that the states before all events take as many rounds as the longest history has doublings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xenm2p.engine.order import Mask
from xenm2p.engine.tables import Slot

# The state of a page in two bits: its entry is its share's, and it is on a list.
MAPPED, LISTED = 1, 2

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Listed:
    """Which pages are on a list after a chunk, (h,), and the rows of the maps that put them
    there, (h,), -1 for those that were listed before the chunk.

    stray (x,) are the rows of maps of pages that a frame of the same list had put there,
    stray_by (x,) the rows of its maps, or -1.
    """

    after: Mask
    row: Slot
    stray: Slot
    stray_by: Slot


def _code(states: tuple[int, int, int, int]) -> int:
    """A function of the state as one byte: two bits for what each of the states becomes."""
    return sum(after << 2 * before for before, after in enumerate(states))


_SAME = _code((0, 1, 2, 3))
# set_foreign_p2m_mapping, clear_foreign_p2m_mapping, arch/x86/xen/p2m.c: what a map or an
# unmap, without and with kmap_ops, makes of a page that is free, mapped, listed or both.
# Where the kernel would corrupt the list, and where it returns -22, the page stays as it is.
_MAP = _code((1, 1, 3, 3)), _code((3, 3, 2, 3))
_UNMAP = _code((0, 0, 2, 2)), _code((0, 1, 2, 0))
_SET_P2M = _code((0, 0, 2, 2))


def step_codes(is_map: Mask, is_unmap: Mask, is_set: Mask, user: Mask) -> Codes:
    """What each row makes of the state of its page, all (r,)."""
    codes = np.full(len(user), _SAME, np.uint8)
    for kinds, functions in ((is_map, _MAP), (is_unmap, _UNMAP)):
        codes[kinds & ~user], codes[kinds & user] = functions
    codes[is_set] = _SET_P2M
    return codes


def states_after(codes: Codes, starts: Slot, first: Codes) -> Codes:
    """The state of the page after each row, (r,).

    `starts` (r,) are the first rows of the rows' pages, `first` (r,) the states before them.
    """
    codes, nth = codes.copy(), np.arange(len(codes)) - starts
    step, longest = 1, int(nth.max(initial=0))
    while step <= longest:
        rows = np.flatnonzero(nth >= step)
        earlier = codes.take(rows - step).astype(np.intp) << 8
        codes[rows] = _together().take(earlier | codes.take(rows))
        step *= 2
    codes >>= 2 * first
    codes &= np.uint8(3)
    return codes


@cache
def _together() -> Codes:
    """The function that two make one after the other: [earlier << 8 | later]."""
    earlier, later = np.divmod(np.arange(1 << 16), 256)
    both = np.zeros(1 << 16, np.int64)
    for shift in (0, 2, 4, 6):
        both |= (later >> 2 * (earlier >> shift & 3) & 3) << shift
    return both.astype(np.uint8)
