"""xentrace's binary file: grant maps and unmaps as the hypervisor counted them.

A record is a header word (event in bits 0-27, number of extra words in bits 28-30, bit 31:
a cycle count follows), two words of cycle count where the bit is set, and the extra words;
all little-endian (xen/include/public/trace.h). xentrace writes what it takes from one
processor's buffer behind a record that names the processor and the bytes that follow
(TRC_TRACE_CPU_CHANGE). Records of grants carry only a domid, so that they are no trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from xenm2p.errors import InputError
from xenm2p.trace import I64, U64

# xen/include/public/trace.h: TRC_GEN + n, TRC_MEM + n
_LOST_RECORDS = 0x0001F001
_CPU_CHANGE = 0x0001F003
_GRANT_MAP = 0x0010F001
_GRANT_TRANSFER = 0x0010F003

_CPU_CHANGE_HEAD = _CPU_CHANGE | 2 << 28  # two extra words, no cycle count
_CPU_CHANGE_WORDS = 3
_MAGIC = _CPU_CHANGE_HEAD.to_bytes(4, "little")
_EVENT = np.uint32((1 << 28) - 1)
_BLOCK = 1 << 20  # bytes parsed at once

Words = NDArray[np.uint32]


class Grant(IntEnum):
    """What a record says happened to one grant."""

    MAP = 0
    UNMAP = 1
    TRANSFER = 2


@dataclass(frozen=True, slots=True)
class Xentrace:
    """The grant records of a file, in the order of the file, and what it lost.

    tsc: (n,) cycle count. cpu: physical processor. kind: `Grant`. domid: the domain that
    granted, of a transfer the one that gets the page. records: of all kinds.
    lost: records that the hypervisor had no room for; lost_tsc: about when, ascending.
    cut: whether the file ends inside what it said it would hold.
    """

    tsc: U64
    cpu: NDArray[np.uint16]
    kind: NDArray[np.uint8]
    domid: NDArray[np.uint16]
    records: int
    lost: int
    lost_tsc: U64
    cut: bool

    def __len__(self) -> int:
        return len(self.tsc)

    def in_order(self) -> Xentrace:
        """The same, sorted by cycle count."""
        order = np.argsort(self.tsc, kind="stable")
        return Xentrace(self.tsc[order], self.cpu[order], self.kind[order], self.domid[order],
                        self.records, self.lost, np.sort(self.lost_tsc), self.cut)


def looks_like_xentrace(first_bytes: bytes) -> bool:
    """Whether a file that begins so was written by xentrace."""
    return first_bytes.startswith(_MAGIC)


def read_xentrace(stream: BinaryIO, source: str) -> Xentrace:
    """Read a file. Memory is that of its grant records and a block.

    Raises InputError, naming the byte, where a processor's records do not end where its
    record said, and for a file without any record.
    """
    reader = _Reader(source)
    data = b""
    while piece := stream.read(_BLOCK):
        data += piece
        data = data[4 * reader.take(np.frombuffer(data, "<u4", len(data) // 4)):]
    return reader.result(at_end=data)


class _Reader:
    """Takes in words; what it holds between blocks is where it is and which processor."""

    def __init__(self, source: str):
        self._source = source
        self._position = 0  # words before the block
        self._cpu = 0
        self._window_end = 0  # in words: where a processor record must stand
        self._records = 0
        self._lost = 0
        self._parts: list[tuple[U64, NDArray[np.uint16], NDArray[np.uint8],
                                NDArray[np.uint16]]] = []
        self._lost_tsc: list[U64] = []

    def take(self, words: Words) -> int:
        """Parse the whole records of a block; returns how many words they are."""
        starts, used = _record_starts(words)
        if len(starts):
            self._records += len(starts)
            cpu = self._cpus(words, starts)
            self._grants(words, starts, cpu)
            self._losses(words, starts)
        self._position += used
        return used

    def _cpus(self, words: Words, starts: I64) -> NDArray[np.uint16]:
        """The processor of each record; checks that the windows join."""
        heads = words[starts]
        at = np.flatnonzero((heads & _EVENT) == _CPU_CHANGE)
        if (heads[at] != _CPU_CHANGE_HEAD).any():
            wrong = at[heads[at] != _CPU_CHANGE_HEAD][0]
            raise self._damaged(int(starts[wrong]), "a processor's record has another size")
        change = starts[at]
        window_words = words[change + 2].astype(np.int64) // 4
        ends = self._position + change + _CPU_CHANGE_WORDS + window_words
        expected = np.concatenate([[self._window_end], ends])
        stands = self._position + change
        wrong_windows = np.flatnonzero(stands != expected[:-1])
        if len(wrong_windows):
            first = int(wrong_windows[0])
            raise self._damaged(
                int(change[first]), f"a processor's records end here, and not at byte "
                f"{4 * int(expected[first])} as was said")
        last_start = int(starts[-1])
        if self._position + last_start >= expected[-1]:
            raise self._damaged(
                last_start, f"no processor's record at byte {4 * int(expected[-1])}")
        self._window_end = int(expected[-1])
        cpus = words[change + 1].astype(np.uint16)
        of_record = np.searchsorted(at, np.arange(len(starts)), side="right")
        cpu: NDArray[np.uint16] = np.concatenate(
            [np.array([self._cpu], np.uint16), cpus])[of_record]
        self._cpu = int(cpu[-1])
        return cpu

    def _damaged(self, word: int, reason: str) -> InputError:
        return InputError(f"damaged: {reason}", source=self._source,
                          place=f"byte {4 * (self._position + word)}")

    def _grants(self, words: Words, starts: I64, cpu: NDArray[np.uint16]) -> None:
        heads = words[starts]
        event = heads & _EVENT
        is_grant = (event >= _GRANT_MAP) & (event <= _GRANT_TRANSFER)
        is_grant &= (heads >> 31 == 1) & ((heads >> 28 & 7) >= 1)
        at = starts[is_grant]
        self._parts.append((
            _cycles(words, at), cpu[is_grant],
            (event[is_grant] - np.uint32(_GRANT_MAP)).astype(np.uint8),
            (words[at + 3] & np.uint32(0xFFFF)).astype(np.uint16)))

    def _losses(self, words: Words, starts: I64) -> None:
        heads = words[starts]
        at = starts[((heads & _EVENT) == _LOST_RECORDS) & ((heads >> 28 & 7) >= 1)]
        has_cycles = (words[at] >> 31).astype(np.int64)
        self._lost += int(words[at + 1 + 2 * has_cycles].sum(dtype=np.int64))
        self._lost_tsc.append(_cycles(words, at[has_cycles == 1]))

    def result(self, at_end: bytes) -> Xentrace:
        """What was read; `at_end` is what is no whole record."""
        if not self._records:
            raise InputError("no record of xentrace in it", source=self._source)
        columns = zip(*self._parts, strict=True)
        tsc, cpu, kind, domid = (np.concatenate(column) for column in columns)
        cut = bool(at_end) or self._position != self._window_end
        return Xentrace(tsc, cpu, kind, domid, self._records, self._lost,
                        np.concatenate(self._lost_tsc), cut)


def _cycles(words: Words, at: I64) -> U64:
    low, high = words[at + 1].astype(np.uint64), words[at + 2].astype(np.uint64)
    joined: U64 = low | high << np.uint64(32)
    return joined


def _record_starts(words: Words) -> tuple[I64, int]:
    """Where the whole records of a block begin, and where the last of them ends.

    Each word says where a record that began there would end; following these from the
    first word, by doubling steps, finds the real ones.
    """
    count = len(words)
    length = 1 + 2 * (words >> 31).astype(np.int64) + (words >> 28 & 7).astype(np.int64)
    end = np.arange(count) + length
    is_start = np.zeros(count + 1, np.bool_)
    is_start[0] = True
    jump = np.append(np.minimum(end, count), count)
    reached = 1
    while True:
        is_start[jump[np.flatnonzero(is_start)]] = True
        now = int(is_start.sum())
        if now == reached:
            break
        reached = now
        jump = jump[jump]
    starts = np.flatnonzero(is_start[:count])
    if len(starts) and end[starts[-1]] > count:
        return starts[:-1], int(starts[-1])
    return starts, count
