"""`xenm2p explain`: the story of one finding, event, page, frame or grant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.cli.messages import say
from xenm2p.errors import EXIT_CLEAN, EXIT_FINDINGS
from xenm2p.report.formats import MARKUPS, WRITERS

if TYPE_CHECKING:
    from xenm2p.cli.session import Session
    from xenm2p.compare.reduce import Target
    from xenm2p.engine.steps import Lookup
    from xenm2p.report.explanation import Story
    from xenm2p.report.involved import Involved
    from xenm2p.report.markup import Block


@click.command("explain")
@options.trace_argument
@click.argument("finding", required=False)
@click.option("--event", type=click.IntRange(min=0), metavar="N", help="Explain this event.")
@click.option("--pfn", "page", metavar="FRAME", callback=options.frame,
              help="Tell all that happened to this page.")
@click.option("--mfn", "frame", metavar="FRAME", callback=options.frame,
              help="Tell all that happened to this machine frame.")
@click.option("--ref", type=click.IntRange(0, (1 << 32) - 2), metavar="N",
              help="Tell all that happened to this grant reference.")
@click.option("--domid", type=click.IntRange(0, 0x7FFF), metavar="N",
              help="Of --ref: the domain that granted it.")
@click.option("--limit", type=click.IntRange(min=0), default=24, show_default=True, metavar="N",
              help="Show at most N events of a story, those nearest to the proof; 0 for all.")
@options.format_option(WRITERS, default="plain")
@options.output_options
@options.replay_options
@options.run_options
def explain_command(
    trace: str, finding: str | None, event: int | None, page: int | None, frame: int | None,
    ref: int | None, domid: int | None, limit: int, format_: str, output: str, force: bool,
    **parameters: Any,
) -> int:
    """Tell the story of a FINDING in TRACE: what happened in which order, and why.

    FINDING is a rule's id or name (XM101, lock-collision), which takes the first one found,
    or the one that an event proves (XM101@17); without one the worst is explained. For it
    stand here both accesses with task and cpu, what mfn_to_pfn looked at and answered, who
    waits for whom, the kernel change that cures it, and the events of its pages and frames
    with their p2m changes, the proof marked with >. --event, --pfn, --mfn and --ref tell
    another story instead. The machine formats hold the events as a table.

    The exit status is 0, or 1 where TRACE has nothing of what was asked for.

    \b
    Examples:
      xenm2p explain traces/mount-ext4-same-domain.yaml
      xenm2p explain trace.txt XM101@17 --kernel 3.4
      xenm2p explain --pfn 0x1010 trace.xm2p
      xenm2p explain --ref 8 --domid 0 -f github trace.xm2p
    """
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.session import open_session, request_of
    from xenm2p.findings.wanted import is_a_rule
    from xenm2p.report.explanation import STORY
    from xenm2p.report.markup import render
    from xenm2p.report.selection import Selection

    if finding is not None and is_a_rule(trace) and not is_a_rule(finding):
        trace, finding = finding, trace  # either order
    if sum(asked is not None for asked in (finding, event, page, frame, ref)) > 1:
        raise click.UsageError("one story at a time: a FINDING, --event, --pfn, --mfn or --ref")
    if domid is not None and ref is None:
        raise click.UsageError("--domid says whose --ref is meant")
    check_writable(output, force=force)
    request = request_of(parameters)
    session = open_session(trace, request, Selection(), again=True)
    if event is not None:
        told = _event(session, event, limit)
    elif page is not None or frame is not None:
        told = _frames(session, page, frame, limit)
    elif ref is not None:
        told = _grant(session, ref, domid, limit)
    else:
        told = _finding(session, finding, limit)
    if told is None:
        return EXIT_FINDINGS
    story, blocks = told
    if not request.quiet:
        with text_output(output, force=force) as out:
            if format_ in MARKUPS:
                markup = MARKUPS[format_]
                out.write(markup.opening + render(markup, blocks) + markup.closing)
            else:
                WRITERS[format_](out, STORY, session.header(STORY.name), [story.columns()])
    return session.exit_status(EXIT_CLEAN)


Told = tuple["Story", "Iterable[Block]"]


def _tell(session: Session, involved: Involved, proof: frozenset[int]) -> Story:
    """Replay once more, with details, and gather the story."""
    from xenm2p.findings import Context
    from xenm2p.report.explanation import Story

    story = Story(involved, Context(session.trace, session.heading.model), proof)
    for segment in session.segments(details=True):
        story.add(segment)
    return story


def _nothing(session: Session, what: str) -> None:
    say(f"{session.heading.name}: {what}")


def _finding(session: Session, finding: str | None, limit: int) -> Told | None:
    from xenm2p.cli.session import findings_in, worst_finding
    from xenm2p.compare.reduce import first_target
    from xenm2p.findings.wanted import Wanted

    model = session.heading.model
    wanted = None if finding is None else Wanted.of(finding)
    target = worst_finding(session) if wanted is None else first_target(
        wanted, session.segments(details=False), model)
    if target is None:
        _nothing(session, f"no {wanted or 'finding'} under {model.name}; {findings_in(session)}")
        return None
    return finding_told(session, target, limit)


def finding_told(session: Session, target: Target, limit: int) -> Told:
    """The story of a finding."""
    from xenm2p.report.explanation import finding_blocks
    from xenm2p.report.involved import Involved

    involved = Involved(on_pages=target.known_pages, of_frames=target.frames,
                        numbers=target.proof)
    story = _tell(session, involved, frozenset(target.events))
    return story, finding_blocks(
        target.findings, story.context, story, _lookup_of_finding(session, target), limit)


# Rules that are about an answer of mfn_to_pfn, and the column of the page that it gives.
_ANSWERS = {101: "pfn", 103: "old", 203: "pfn", 204: "pfn"}


def _lookup_of_finding(session: Session, target: Target) -> Lookup | None:
    found = target.findings
    column = _ANSWERS.get(int(found.rule[0]))
    if column is None:
        return None
    return _lookup(session, target.known_pages, int(found.mfn[0]), int(found.event[0]),
                   int(getattr(found, column)[0]))


def _lookup(
    session: Session, pages: Any, mfn: int, event: int, expected: int | None
) -> Lookup:
    """The steps of mfn_to_pfn(mfn) after an event.

    They are taken from the events around the frame; should the answer differ from the
    replay's, from all events up to then.
    """
    import numpy as np

    from xenm2p.compare.closure import Reach, involved_events
    from xenm2p.engine.steps import lookup_steps, machine_at
    from xenm2p.trace import Trace

    trace, model = session.trace, session.heading.model
    lookup = None
    for reach in (Reach.NEIGHBOURS, Reach.ALL):
        events, numbers = involved_events(
            trace, reach, pages, np.array([mfn], np.uint64), (event,))
        some = Trace.of_events(events, domain=trace.domain, memory=trace.memory, m2p=trace.m2p)
        lookup = lookup_steps(machine_at(some, model, numbers, event), mfn)
        if expected is None or lookup.answer == expected:
            break
    assert lookup is not None
    return lookup


def _event(session: Session, event: int, limit: int) -> Told | None:
    import numpy as np

    from xenm2p.report.explanation import event_blocks
    from xenm2p.report.involved import Involved
    from xenm2p.trace import FRAME_MASK, INVALID

    first, row, asked = 0, None, None
    for segment in session.segments(details=False):
        if first <= event < first + len(segment.events):
            row = segment.events.rows(slice(event - first, event - first + 1))
            answers = segment.resolutions.rows(segment.resolutions.event == event)
            asked = (int(answers.mfn[0]), int(answers.resolved[0])) if len(answers) else None
        first += len(segment.events)
    if row is None:
        _nothing(session, f"no event {event}: the trace has {first}")
        return None
    invalid = np.uint64(INVALID)
    frames = row.mfn[row.mfn != invalid] & np.uint64(FRAME_MASK)
    involved = Involved(on_pages=row.pfn[row.pfn != invalid], of_frames=frames,
                        numbers=np.array([event], np.int64))
    story = _tell(session, involved, frozenset({event}))
    lookup = None
    if asked is not None and asked[0] != INVALID:
        # Since 667a0a06c99d direct I/O asks no table: then the answer is not this one's.
        lookup = _lookup(session, involved.on_pages, asked[0], event, None)
    return story, event_blocks(story, event, lookup, limit)


def _frames(
    session: Session, page: int | None, frame: int | None, limit: int
) -> Told | None:
    import numpy as np

    from xenm2p.report.explanation import frame_blocks
    from xenm2p.report.involved import Involved
    from xenm2p.trace import format_frame

    pages, frames = ([each] if each is not None else [] for each in (page, frame))
    story = _tell(session, Involved(on_pages=np.array(pages, np.uint64),
                                    of_frames=np.array(frames, np.uint64)), frozenset())
    what = (f"page {format_frame(page)}" if page is not None
            else f"frame {format_frame(frame or 0)}")
    if not story.rows:
        _nothing(session, f"no event on {what}")
        return None
    return story, frame_blocks(story, what, limit)


def _grant(session: Session, ref: int, domid: int | None, limit: int) -> Told | None:
    import numpy as np

    from xenm2p.report.explanation import frame_blocks
    from xenm2p.report.involved import Involved
    from xenm2p.trace import NO_DOMID, Kind

    numbers: list[int] = []
    for segment in session.segments(details=True):
        events, shares = segment.events, segment.shares
        is_own = (events.ref == ref) & (events.kind != int(Kind.LOST))
        mine = shares.ref == ref
        if domid is not None:
            is_own &= (events.domid == domid) | (events.domid == NO_DOMID)
            mine &= shares.domid == domid
        numbers += (np.flatnonzero(is_own) + segment.first_event).tolist()
        numbers += shares.end_event[mine & (shares.end_event >= 0)].tolist()
    if not numbers:
        _nothing(session, f"no event of grant reference {ref}")
        return None
    chosen = np.unique(np.array(numbers, np.int64))
    story = _tell(session, Involved(numbers=chosen), frozenset())
    whose = "" if domid is None else f" of domain {domid}"
    return story, frame_blocks(story, f"grant {ref}{whose}", limit)
