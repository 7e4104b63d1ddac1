"""Model against machine: how well each kernel model explains the p2m writes of a trace.

Every `p2m_write` is what the machine wrote; every change of a p2m entry by a map or unmap is
what the model wrote. The two are paired event by event, as XM501 does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from xenm2p.engine.replay import Counts, Fact, Facts, Options, Segment
from xenm2p.kernels import KernelModel
from xenm2p.trace import Trace

Replay = Callable[[Trace, KernelModel], Iterator[Segment]]

JUDGING = Options(judge_writes=True, details=False)


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a model explains of the writes of one trace.

    agreed: writes equal to the model's entry at that event. unexplained: the others.
    unwritten: changes of the model that the machine never wrote. unsure: of the last two,
    those around a loss. first: the first misses, facts of number 501.
    """

    model: KernelModel
    agreed: int
    unexplained: int
    unwritten: int
    unsure: int
    first: Facts

    @property
    def writes(self) -> int:
        """Writes seen on the machine."""
        return self.agreed + self.unexplained

    @property
    def misses(self) -> int:
        """Where model and machine differ."""
        return self.unexplained + self.unwritten

    @property
    def share(self) -> float:
        """Agreement from 0 to 1, of all that either wrote; 1 where neither wrote."""
        whole = self.agreed + self.misses
        return self.agreed / whole if whole else 1.0

    def percent(self) -> str:
        """The share in percent; 100.00 is said of a whole agreement only."""
        hundredths = int(self.share * 10_000)  # never rounded up
        return f"{hundredths // 100}.{hundredths % 100:02}"


def agreement_of(trace: Trace, model: KernelModel, replay: Replay, *, keep: int = 0) -> Agreement:
    """Replay a trace under one model, one pass; `keep` misses are kept.

    `replay` is an engine with the options JUDGING.
    """
    counts = Counts()
    unexplained = unwritten = unsure = kept = 0
    first: list[Facts] = []
    for segment in replay(trace, model):
        counts = counts + segment.counts
        misses = segment.facts.rows(segment.facts.fact == Fact.MODEL_MISMATCH)
        if not len(misses):
            continue
        unwritten += int((misses.value == 1).sum())
        unexplained += int((misses.value == 0).sum())
        unsure += int((misses.unknown != 0).sum())
        if kept < keep:
            first.append(misses.rows(slice(keep - kept)))
            kept += len(first[-1])
    return Agreement(model, counts.writes_agreed, unexplained, unwritten, unsure,
                     Facts.concat(first))


@dataclass(frozen=True, slots=True)
class Choice:
    """The model that explains a trace's writes best, and the sentence that says why."""

    model: KernelModel
    why: str


def choose(found: Sequence[Agreement], traced: KernelModel | None) -> Choice | None:
    """The model of the highest share of agreement; None where the trace has no write.

    `found` is an agreement a model, the oldest kernel first. Of equal ones it is the traced
    kernel's, if that is among them, else the newest.
    """
    if not any(each.writes for each in found):
        return None
    best = max(each.share for each in found)
    equal = [each for each in found if each.share == best]
    own = [each for each in equal if each.model == traced]
    chosen = (own or equal)[-1]
    why = f"it explains {chosen.agreed} of {chosen.writes} p2m writes"
    if chosen.unwritten:
        why += f" and makes {chosen.unwritten} that the machine did not"
    others = [each.model.name for each in equal if each is not chosen]
    if others:
        of_equal = "the traced kernel's own" if own else "the newest"
        why += f"; of equals ({', '.join(others)}) it is {of_equal}"
    elif traced is not None and traced != chosen.model:
        why += f", more than {traced.name}, which the trace names"
    return Choice(chosen.model, why)
