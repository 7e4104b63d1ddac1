"""A session: one trace opened, its kernel model chosen, and replayed segment by segment."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenm2p.cli.options import AUTO
from xenm2p.cli.progress import with_progress
from xenm2p.compare.agreement import JUDGING, Agreement, agreement_of, choose
from xenm2p.engine.replay import Fact, Options, Segment
from xenm2p.engine.resuming import renumbered, resumed_trace
from xenm2p.errors import EXIT_LOSSY, InputError, UsageError
from xenm2p.findings import Tally
from xenm2p.formats.binary_reader import Loss
from xenm2p.formats.capture_sight import what_is_seen
from xenm2p.formats.detect import read_trace
from xenm2p.kernels import DEFAULT_MODEL, MODELS, KernelModel, model_for
from xenm2p.report.fields import SCHEMA
from xenm2p.report.overview import Heading
from xenm2p.report.selection import Point, Selection
from xenm2p.trace import Resumption, Trace, event_beyond

if TYPE_CHECKING:
    from xenm2p.compare.reduce import Target

Engine = Callable[[Trace, KernelModel, Options], Iterator[Segment]]


# The tables of which a replay from a checkpoint gives the same rows, and of these the ones
# that nothing after the window adds to.
_RESUMED = ("events", "transitions", "collisions", "findings", "shares")
_WITHIN = ("events", "transitions")


@dataclass(slots=True)
class ReplayRequest:
    """What the shared options of `options.replay_options` and `run_options` asked for."""

    kernel: str | None
    traced_kernel: str | None
    memory: str | None
    vmemmap_base: int | None
    merge: tuple[str, ...]
    grants: str | None
    assume_dio: bool
    engine: str
    strict: bool
    quiet: bool
    progress: bool

    def arguments(self) -> list[list[str]]:
        """The options that make the replay, for a command that shall make the same one."""
        given = [[flag, value]
                 for flag, value in (("--kernel", self.kernel),
                                     ("--traced-kernel", self.traced_kernel),
                                     ("--memory", self.memory),
                                     ("--grants", self.grants)) if value is not None]
        if self.vmemmap_base is not None:
            given.append(["--vmemmap-base", hex(self.vmemmap_base)])
        merged = [["--merge", name] for name in self.merge]
        return given + merged + [["--assume-dio"]] * self.assume_dio

    def exit_status(self, otherwise: int, *, lossy: bool) -> int:
        """EXIT_LOSSY where --strict asks for it, else `otherwise`."""
        return EXIT_LOSSY if self.strict and lossy else otherwise


@dataclass(slots=True)
class Session:
    """One trace on its way through an engine.

    `lossy` becomes true when events were lost or salvaged, at the latest with the last
    segment.
    """

    request: ReplayRequest
    heading: Heading
    trace: Trace
    selection: Selection
    losses: list[Loss]
    lossy: bool = False

    def segments_of_window(self, table: str) -> Iterator[Segment]:
        """The replay as far as it has rows of `table` that the selection shows.

        It starts at the newest checkpoint before --from where the rows are then the same: not
        for locks, whose release may not have been seen, nor where rows are chosen by the
        attributes of earlier events; nor with --strict, which asks for losses of all the trace.
        """
        resumption = None
        if table in _RESUMED and not self.selection.by_attribute and not self.request.strict:
            resumption = self._resumption()
        if resumption is None:
            needs_details = table in ("transitions", "shares", "locks")
            yield from self.segments(details=needs_details or not self.selection.everything)
            return
        options = Options(assume_dio=self.request.assume_dio, judge_writes=self.heading.judged)
        replay = engine_named(self.request.engine)
        trace = resumed_trace(self.trace, resumption)
        length = self.trace.length
        for segment in with_progress(
                renumbered(replay(trace, self.heading.model, options), resumption),
                lambda segment: len(segment.events),
                None if length is None else length - resumption.first_event,
                wanted=self.request.progress and not self.request.quiet):
            self.selection.observe(segment, self.trace)
            yield segment
            if table in _WITHIN and self.selection.is_over:
                return

    def _resumption(self) -> Resumption | None:
        first = self.selection.first
        if first is None or self.trace.resume is None:
            return None
        if first.is_time:
            begin = event_beyond(self.trace, first.value - 1)
            if begin is None:
                return None
            first = self.selection.first = Point(begin, is_time=False)
        return self.trace.resume(first.value)

    def segments(self, *, details: bool) -> Iterator[Segment]:
        """The replay; the selection has observed each segment that comes out."""
        options = Options(assume_dio=self.request.assume_dio, details=details,
                          judge_writes=self.heading.judged)
        segments = engine_named(self.request.engine)(self.trace, self.heading.model, options)
        wanted = self.request.progress and not self.request.quiet
        for segment in with_progress(
                segments, lambda segment: len(segment.events), self.trace.length,
                wanted=wanted):
            self.selection.observe(segment, self.trace)
            has_loss = bool((segment.facts.fact == Fact.LOST_EVENTS).any())
            self.lossy = self.lossy or has_loss or segment.counts.lost > 0
            yield segment
        self.lossy = self.lossy or bool(self.losses)

    def number_of_events(self) -> int:
        """How many events the trace has; one whose length is not known is read for it."""
        length = self.trace.length
        return sum(map(len, self.trace.chunks())) if length is None else length

    def header(self, table: str) -> dict[str, Any]:
        """The header object of a machine-readable table."""
        return {"schema": SCHEMA, "table": table, "kernel": self.heading.model.name,
                "trace": self.heading.name}

    def exit_status(self, otherwise: int) -> int:
        """EXIT_LOSSY where --strict asks for it, else `otherwise`."""
        return self.request.exit_status(otherwise, lossy=self.lossy)


def open_session(
    name: str, request: ReplayRequest, selection: Selection, *, again: bool = False
) -> Session:
    """Open a trace and choose its model; `again`: it must bear more than one replay.

    Raises InputError, UsageError.
    """
    check_kernels(request)
    losses: list[Loss] = []
    trace = read_trace(name, memory=request.memory, grants=request.grants, losses=losses,
                       again=again or request.kernel == AUTO, merge=request.merge,
                       vmemmap_base=request.vmemmap_base)
    heading = (chosen_heading(name, trace, request, model_agreements(trace, request))
               if request.kernel == AUTO else heading_of(name, trace, request))
    return Session(request, heading, trace, selection, losses)


def sessions_under(name: str, request: ReplayRequest) -> list[Session]:
    """Open a trace once and give a session for each model, or for that of --kernel.

    They have one trace, to be read once for all of them; only the first shows a bar.

    Raises InputError, UsageError.
    """
    if request.kernel is not None:
        return [open_session(name, request, Selection())]
    check_kernels(request)
    losses: list[Loss] = []
    trace = read_trace(name, memory=request.memory, grants=request.grants, losses=losses,
                       merge=request.merge, vmemmap_base=request.vmemmap_base)
    requests = [replace(request, kernel=name, progress=request.progress and not place)
                for place, name in enumerate(MODELS)]
    return [Session(one, heading_of(name, trace, one), trace, Selection(), losses)
            for one in requests]


def findings_in(session: Session) -> str:
    """Which findings a replay has, for one who asked for another."""
    tally = _tally_of(session)
    found = [f"{rule.id} ({sum(tally.of_rule(rule).values())})" for rule in tally.rules()]
    return f"found: {', '.join(found)}" if found else "it has no findings"


def worst_finding(session: Session) -> Target | None:
    """The worst finding, of equals the first by id and then by event; None without findings."""
    from xenm2p.compare.reduce import Target

    tally = _tally_of(session, keep=1)
    rules = tally.worst_rules()
    return Target.of(tally.first_of(rules[0]), 0) if rules else None


def _tally_of(session: Session, *, keep: int = 0) -> Tally:
    tally = Tally(session.heading.model, keep=keep)
    for segment in session.segments(details=False):
        tally.add_segment(segment)
    return tally


def digest_of(name: str) -> str:
    """The sha256 of a file, in hex."""
    import hashlib  # which loads OpenSSL

    digest = hashlib.sha256()
    with Path(name).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_kernels(request: ReplayRequest) -> None:
    """Tell a wrong kernel before a large trace is read. Raises UsageError."""
    if request.kernel is not None and request.kernel != AUTO:
        model_for(request.kernel)
    if request.traced_kernel is not None:
        model_for(request.traced_kernel)


def model_agreements(
    trace: Trace, request: ReplayRequest, models: Iterable[KernelModel] = MODELS.values(), *,
    keep: int = 0,
) -> list[Agreement]:
    """How well models explain the trace's p2m writes, a pass and a bar for each."""
    replay = engine_named(request.engine)

    def watched(trace: Trace, model: KernelModel) -> Iterator[Segment]:
        return with_progress(
            replay(trace, model, JUDGING), lambda segment: len(segment.events), trace.length,
            wanted=request.progress and not request.quiet)

    return [agreement_of(trace, model, watched, keep=keep) for model in models]


def chosen_heading(
    name: str, trace: Trace, request: ReplayRequest, found: Sequence[Agreement]
) -> Heading:
    """The heading for --kernel auto: the model that explains the trace's p2m writes best.

    It is taken for the kernel that made them, so that they are judged under it. Without
    any write it is the traced kernel. Raises UsageError where that is not known either.
    """
    traced = request.traced_kernel or trace.kernel
    traced_model = traced_model_of(name, trace, request)
    choice = choose(found, traced_model)
    if choice is None and traced_model is None:
        raise UsageError(f"{name}: --kernel auto has nothing to choose by: no p2m write is in "
                         "the trace, and it names no kernel; give --kernel VERSION")
    if choice is None:
        assert traced_model is not None
        model, why = traced_model, f"no p2m write to choose by; the trace says {traced}"
    else:
        model, why = choice.model, f"{choice.model.name}, as {choice.why}"
    return Heading(
        name=name, model=model, kernel_from=f"from --kernel auto: {why}", traced_kernel=traced,
        what_if=False, judged=choice is not None, sees=what_is_seen(trace.notes))


def heading_of(name: str, trace: Trace, request: ReplayRequest) -> Heading:
    """Which model the trace is replayed under, and why.

    Writes seen on the machine are judged only under the model of the kernel that made
    them; where that kernel is not known they are not judged at all.
    """
    traced = request.traced_kernel or trace.kernel
    traced_model = traced_model_of(name, trace, request)
    if request.kernel is not None:
        model, kernel_from = model_for(request.kernel), f"from --kernel {request.kernel}"
    elif traced_model is not None:
        source = "--traced-kernel" if request.traced_kernel else "the trace"
        model, kernel_from = traced_model, f"from {source}: {traced}"
    else:
        model = DEFAULT_MODEL
        kernel_from = "the default: neither the trace nor --kernel names a kernel"
    return Heading(
        name=name, model=model, kernel_from=kernel_from, traced_kernel=traced,
        what_if=traced_model is not None and traced_model != model,
        judged=traced_model == model, sees=what_is_seen(trace.notes))


def traced_model_of(name: str, trace: Trace, request: ReplayRequest) -> KernelModel | None:
    """The model of the kernel that the trace was taken on, None where it is not known.

    Raises UsageError where --traced-kernel is no kernel that has a model, InputError where
    the trace's own is none.
    """
    kernel = request.traced_kernel or trace.kernel
    try:
        return None if kernel is None else model_for(kernel)
    except UsageError as error:
        if request.traced_kernel:
            raise
        raise InputError(f"'kernel': {error}; --traced-kernel overrides it",
                         source=name) from None


def engine_named(name: str) -> Engine:
    """The replay function of an engine."""
    replay: Engine = importlib.import_module(f"xenm2p.engine.{name}").replay
    return replay


def request_of(parameters: dict[str, Any]) -> ReplayRequest:
    """Take the parameters of `options.replay_options` and `run_options` out of all of them."""
    return ReplayRequest(**{name.name: parameters.pop(name.name)
                            for name in fields(ReplayRequest)})


def selection_of(chosen: dict[str, Any]) -> Selection:
    """The selection from the parameters of `options.filter_options`.

    Raises UsageError where --to is before --from.
    """
    first, last = chosen.pop("first"), chosen.pop("last")
    if first and last and first[1] == last[1] and last[0] < first[0]:
        raise UsageError("--to is before --from: no event is between them")
    return Selection(first=Point(*first) if first else None,
                     last=Point(*last) if last else None, **chosen)


def command_line(*groups: Sequence[str]) -> list[str]:
    """A command as a user would type it, in lines of at most 68 characters.

    Words of one group, an option and its value, stay on one line.
    """
    lines = [""]
    for group in groups:
        words = shlex.join(group)
        if lines[-1] and len(lines[-1]) + len(words) > 66:
            lines[-1] += " \\"
            lines.append("    " + words)
        else:
            lines[-1] += f" {words}" if lines[-1] else words
    return lines
