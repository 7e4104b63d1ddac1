"""What differs between the events of two runs: counts, rows and hunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from xenm2p.compare.alignment import Alignment, Run
from xenm2p.compare.identity import NAMES, unlike_names
from xenm2p.compare.sharing import SharePairs
from xenm2p.compare.stretches import Op, Stretches, stretches_of
from xenm2p.report.eventtext import event_text
from xenm2p.report.fields import Columns
from xenm2p.report.hunks import (
    LEFT_OUT,
    MOVED,
    ONLY_A,
    ONLY_B,
    SAME,
    UNLIKE,
    Hunk,
    Line,
)
from xenm2p.trace import KIND_BY_CODE, Column

MAX_LINES = 8  # of one stretch
BATCH = 1 << 12

WORDS = {op: op.name.lower() for op in Op}
_MEANING = {
    Op.MISSING: "only in A", Op.INSERTED: "only in B",
    Op.CHANGED: "another status, user, domain or entry",
    Op.MOVED: "in another order among events of their kind",
    Op.INTERLEAVED: "earlier or later among events of other kinds",
}


@dataclass(frozen=True, slots=True)
class NameCount:
    """How many paired events disagree in a name, and how many have it in one run only."""

    name: str
    disagree: int
    only_a: int
    only_b: int


@dataclass(frozen=True, slots=True)
class EventDiff:
    """Two runs aligned, and what differs."""

    a: Run
    b: Run
    alignment: Alignment
    stretches: Stretches
    names: list[NameCount]
    kinds: dict[Op, list[tuple[str, int]]] = field(default_factory=dict)

    @classmethod
    def of(cls, a: Run, b: Run, alignment: Alignment) -> EventDiff:
        """Find what differs."""
        stretches = stretches_of(a, b, alignment)
        return cls(a, b, alignment, stretches, _names(a, b, alignment),
                   {op: _kinds(a, b, stretches, op) for op in Op})

    @property
    def same(self) -> bool:
        """Whether the runs are the same up to renaming."""
        return not len(self.stretches) and not any(
            count.disagree or count.only_a or count.only_b for count in self.names)

    def total(self, op: Op) -> int:
        """How many events have that fate."""
        return sum(count for _, count in self.kinds[op])

    # -- the summary -------------------------------------------------------------------

    def items(self) -> Iterator[tuple[str, str]]:
        """Counted lines: key and text."""
        yield "events", (f"{len(self.a)} in A, {len(self.b)} in B, "
                         f"{len(self.alignment.a)} in both")
        for op in Op:
            if total := self.total(op):
                pieces = int((self.stretches.op == op).sum())
                kinds = ", ".join(f"{kind} {count}" for kind, count in self.kinds[op])
                yield WORDS[op], (f"{total} in {pieces} stretch{'es' * (pieces != 1)}, "
                                  f"{_MEANING[op]}: {kinds}")
        unlike = [f"{NAMES[each.name]} {each.disagree}" for each in self.names if each.disagree]
        if unlike:
            yield "names", ("events in both that name another than the one that went before: "
                            + ", ".join(unlike))
        for side in ("a", "b"):
            only = [f"{NAMES[each.name]} of {count} events" for each in self.names
                    if (count := getattr(each, f"only_{side}"))]
            if only:
                yield f"only in {side.upper()}", ", ".join(only)
        yield from self._shares()

    def _shares(self) -> Iterator[tuple[str, str]]:
        pairs = SharePairs.of(self.a, self.b, self.alignment)
        a, b = pairs.a, pairs.b
        if not len(a.mapped) and not len(b.mapped):
            return
        yield "shares", f"{len(a.mapped)} in A, {len(b.mapped)} in B, {pairs.both} in both"
        never = [int((side.released < 0).sum()) for side in (a, b)]
        if any(never):
            yield "not ended", f"{never[0]} in A, {never[1]} in B"
        yield "at once", (
            f"{a.most_at_once()} in A, {b.most_at_once()} in B at most; of one frame "
            f"{a.most_of_one_frame(self.a.events)} and {b.most_of_one_frame(self.b.events)}")
        if len(a.life) and len(b.life):
            yield "life time", (
                f"half end within {_duration(np.median(a.life))} in A, "
                f"{_duration(np.median(b.life))} in B; the longest takes "
                f"{_duration(a.life.max())} and {_duration(b.life.max())}")
        if pairs.reordered:
            yield "release", f"{pairs.reordered} shares are released in another order"

    # -- rows --------------------------------------------------------------------------

    def rows(self) -> Iterator[Columns]:
        """The rows of the table `diff`, in batches."""
        for begin in range(0, len(self.stretches), BATCH):
            batch = self.stretches.rows(slice(begin, begin + BATCH))
            rows = [self._row(*cells) for cells in zip(
                batch.op.tolist(), batch.a.tolist(), batch.b.tolist(), batch.count.tolist(),
                strict=True)]
            yield [list(column) for column in zip(*rows, strict=True)]
        names = [
            (op, "names", NAMES[each.name], None, None, count, None, None)
            for each in self.names
            for op, count in (("changed", each.disagree), ("missing", each.only_a),
                              ("inserted", each.only_b)) if count]
        if names:
            yield [list(column) for column in zip(*names, strict=True)]

    def _row(self, code: int, a: int, b: int, count: int) -> tuple[object, ...]:
        op = Op(code)
        in_a, in_b = op != Op.INSERTED, op != Op.MISSING
        run, row = (self.a, a) if in_a else (self.b, b)
        counts = np.bincount(run.events.kind[row:row + count])
        what = ", ".join(f"{KIND_BY_CODE[kind].name} {counts[kind]}"
                         for kind in np.flatnonzero(counts))
        return (WORDS[op], "events", what, self.a.number(a) if in_a else None,
                self.b.number(b) if in_b else None, count,
                self._text(self.a, a) if in_a else None,
                self._text(self.b, b) if in_b else None)

    # -- hunks -------------------------------------------------------------------------

    def hunks(self, context: int, limit: int | None) -> tuple[list[Hunk], int]:
        """The first hunks, those that matter most, and how many stretches are left out."""
        chosen = np.arange(len(self.stretches))
        if limit is not None:
            chosen = np.sort(np.argsort(self.stretches.op, kind="stable")[:limit])
        groups: list[list[int]] = []
        end = -1
        for index in chosen.tolist():
            begin = int(self.stretches.a[index])
            if groups and begin - end <= 2 * context:
                groups[-1].append(index)
            else:
                groups.append([index])
            end = max(end, begin + self._rows_in_a(index))
        return [self._hunk(group, context) for group in groups], len(self.stretches) - len(chosen)

    def _rows_in_a(self, index: int) -> int:
        return 0 if self.stretches.op[index] == Op.INSERTED else int(self.stretches.count[index])

    def _hunk(self, group: list[int], context: int) -> Hunk:
        first = int(self.stretches.a[group[0]])
        lines: list[Line] = []
        told: dict[str, int] = {}
        place = max(0, first - context)
        for index in group:
            begin = int(self.stretches.a[index])
            lines += self._context(place, begin)
            lines += self._stretch(index)
            place = max(place, begin + self._rows_in_a(index))
            word = WORDS[Op(self.stretches.op[index])]
            told[word] = told.get(word, 0) + int(self.stretches.count[index])
        lines += self._context(place, place + context)
        what = ", ".join(f"{count} {word}" for word, count in told.items())
        b = int(self.stretches.b[group[0]])
        return Hunk(f"A {self._number(self.a, first)} B {self._number(self.b, b)}: {what}", lines)

    def _number(self, run: Run, row: int) -> str:
        return str(run.number(row)) if row < len(run) else "end"

    def _context(self, begin: int, end: int) -> Iterator[Line]:
        """Events of A that stayed where they are."""
        low, high = np.searchsorted(self.alignment.a, (begin, end))
        for at in range(int(low), int(high)):
            if not self.alignment.moved[at]:
                yield Line(SAME, self._text(self.a, int(self.alignment.a[at])),
                           self._text(self.b, int(self.alignment.b[at])))

    def _stretch(self, index: int) -> Iterator[Line]:
        op = Op(self.stretches.op[index])
        a, b = int(self.stretches.a[index]), int(self.stretches.b[index])
        count = int(self.stretches.count[index])
        for offset in range(min(count, MAX_LINES)):
            in_a = self._text(self.a, a + offset) if op != Op.INSERTED else None
            in_b = self._text(self.b, b + offset) if op != Op.MISSING else None
            match op:
                case Op.MISSING:
                    yield Line(ONLY_A, in_a)
                case Op.INSERTED:
                    yield Line(ONLY_B, None, in_b)
                case Op.CHANGED:
                    yield Line(UNLIKE, in_a, in_b)
                case _:
                    yield Line(MOVED, f"{in_a} [B {self._number(self.b, b + offset)}]", in_b)
        if count > MAX_LINES:
            text = f"... {count - MAX_LINES} more"
            yield Line(LEFT_OUT, text, text)

    def _text(self, run: Run, row: int) -> str:
        return event_text(run.events, row, run.trace, run.number(row))


def _names(a: Run, b: Run, alignment: Alignment) -> list[NameCount]:
    rows_a, rows_b = a.events.rows(alignment.a), b.events.rows(alignment.b)
    order_b = np.argsort(alignment.b)
    return [NameCount(name, int(disagree.sum()), int(only_a.sum()), int(only_b.sum()))
            for name, only_a, only_b, disagree in unlike_names(rows_a, rows_b, order_b)]


def _kinds(a: Run, b: Run, stretches: Stretches, op: Op) -> list[tuple[str, int]]:
    chosen = stretches.rows(stretches.op == op)
    run, begin = (b, chosen.b) if op == Op.INSERTED else (a, chosen.a)
    change = np.zeros(len(run) + 1, np.int64)
    np.add.at(change, begin, 1)
    np.add.at(change, begin + chosen.count, -1)
    kind: Column = run.events.kind[np.cumsum(change)[:-1] > 0]
    counts = np.bincount(kind, minlength=1)
    return [(KIND_BY_CODE[code].name, int(counts[code])) for code in np.flatnonzero(counts)]


def _duration(nanoseconds: float) -> str:
    for unit, size in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.0f} ns"
