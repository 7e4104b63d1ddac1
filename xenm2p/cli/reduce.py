"""`xenm2p reduce`: the smallest sub-trace that still shows a finding."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.cli.messages import say
from xenm2p.errors import EXIT_CLEAN, EXIT_FINDINGS

if TYPE_CHECKING:
    from xenm2p.cli.session import Session
    from xenm2p.compare.reduce import Reducer, Replay, Target
    from xenm2p.engine.replay import Segment
    from xenm2p.kernels import KernelModel
    from xenm2p.trace import I64, Trace

_MOST_NUMBERS = 20  # of kept events, in the comment that says where a trace is from


@click.command("reduce")
@options.trace_argument
@click.option("--finding", metavar="ID", required=True,
              help="What must stay: the first finding of a rule by its id or name (XM101, "
                   "lock-collision), or the one that an event proves (XM101@17).")
@click.option("--not-under", metavar="KERNEL", multiple=True,
              help="Stay without the finding under this kernel, so that the result still "
                   "tells the two apart. Repeatable.")
@click.option("--renumber", is_flag=True,
              help="Give pages, frames, refs, handles, calls and times small numbers.")
@options.output_options
@options.replay_options
@options.run_options
def reduce_command(
    trace: str, finding: str, not_under: tuple[str, ...], renumber: bool, output: str,
    force: bool, **parameters: Any,
) -> int:
    """Write the smallest part of TRACE that still shows a finding, as a YAML trace.

    Still shows means: under the same kernel model the same finding, of the same events,
    pages, frames and verdict. No event of the result can be left out, nor any entry of
    its initial memory. A comment at its top says where it came from, which events it keeps
    and how to replay it. Options of the original replay, such as --assume-dio and --memory,
    count here as well.

    The exit status is 0, or 1 where TRACE does not show the finding.

    \b
    Examples:
      xenm2p reduce --finding XM101 traces/mount-ext4-same-domain.yaml
      xenm2p reduce --finding XM101 --not-under 3.5 trace.xm2p -o small.yaml
      xenm2p reduce --finding XM302@1207 --renumber trace.txt | xenm2p replay -
    """
    from xenm2p.cli.output import binary_output, check_writable
    from xenm2p.cli.session import findings_in, open_session, request_of
    from xenm2p.compare.reduce import first_target
    from xenm2p.findings.wanted import Wanted
    from xenm2p.formats.yaml_write import write_yaml
    from xenm2p.kernels import model_for
    from xenm2p.report.selection import Selection

    check_writable(output, force=force)
    request = request_of(parameters)
    wanted, others = Wanted.of(finding), [model_for(kernel) for kernel in not_under]
    session = open_session(trace, request, Selection(), again=True)
    model = session.heading.model
    if model in others:
        raise click.UsageError(f"--not-under {model.name} is the model of the replay itself")
    target = first_target(wanted, session.segments(details=False), model)
    if target is None:
        say(f"{trace}: no {wanted} under {model.name}; {findings_in(session)}")
        return EXIT_FINDINGS
    for other in others:
        replayed = _reducer(session, target, ()).quick(session.trace, other)
        if target.in_(replayed, other, target.about):
            say(f"{trace}: {wanted} is there under {other.name} as well")
            return EXIT_FINDINGS
    reduced, numbers, reducer = reduced_to(session, target, others)
    if renumber:
        reduced = _renumbered(reducer, reduced, numbers, trace)
    with binary_output(output, force=force) as file:
        write_yaml(reduced, file)
    if not request.quiet:
        say(f"{trace}: {len(numbers)} of {session.number_of_events()} events, after "
            f"{reducer.replays} replays")
    return request.exit_status(EXIT_CLEAN, lossy=session.lossy)


def reduced_to(
    session: Session, target: Target, others: Sequence[KernelModel]
) -> tuple[Trace, I64, Reducer]:
    """The smallest trace that shows `target`, the event numbers it keeps, and its reducer."""
    reducer = _reducer(session, target, others)
    reduced, numbers = reducer.reduce()
    reduced.notes = _notes(session, target, others, numbers)
    return reduced, numbers, reducer


def _reducer(session: Session, target: Target, others: Sequence[KernelModel]) -> Reducer:
    from xenm2p.cli.session import traced_model_of
    from xenm2p.compare.reduce import Reducer

    traced = traced_model_of(session.heading.name, session.trace, session.request)
    # The traced kernel is the header's, which --traced-kernel may have put right.
    trace = replace(session.trace, kernel=session.request.traced_kernel or session.trace.kernel)
    return Reducer(trace, session.heading.model, target, others,
                   quick=_replay(session, traced, session.request.engine),
                   exact=_replay(session, traced, "reference"))


def _replay(session: Session, traced: KernelModel | None, engine: str) -> Replay:
    """A replay as the session's own; p2m writes are judged under the traced kernel's model."""
    from xenm2p.cli.session import engine_named
    from xenm2p.engine.replay import Options

    replay = engine_named(engine)

    def run(trace: Trace, model: KernelModel) -> Iterator[Segment]:
        judged = session.heading.judged if model == session.heading.model else model == traced
        return replay(trace, model, Options(
            assume_dio=session.request.assume_dio, judge_writes=judged, details=False))

    return run


def _renumbered(reducer: Reducer, reduced: Trace, numbers: I64, name: str) -> Trace:
    from xenm2p.compare.reduce import renumbered

    kept = reducer.target.among(numbers)
    assert kept is not None, "the reduced trace has the finding"
    moved, target = renumbered(reduced, kept)
    if reducer.shows(moved, target):
        return moved
    say(f"{name}: the finding hangs on the numbers themselves: they are kept")
    return reduced


def kernel_of(session: Session) -> str:
    """What --kernel takes to replay a part of the trace in the same way."""
    asked, heading = session.request.kernel, session.heading
    if asked is None and heading.traced_kernel is not None:
        return heading.traced_kernel
    return heading.model.first if asked in (None, options.AUTO) else asked


def _notes(
    session: Session, target: Target, others: Sequence[KernelModel], numbers: I64
) -> list[str]:
    """Where the reduced trace is from and what it shows."""
    from xenm2p import __version__
    from xenm2p.findings import rule_of

    name, model = session.heading.name, session.heading.model
    kept = numbers.tolist()
    listed = ", ".join(map(str, kept[:_MOST_NUMBERS]))
    more = f" and {len(kept) - _MOST_NUMBERS} more" if len(kept) > _MOST_NUMBERS else ""
    absent = "".join(f", not under {other.name}" for other in others)
    assumed = " --assume-dio" if session.request.assume_dio else ""
    rule = rule_of(target.findings, 0)
    return [
        f"reduced by xenm2p {__version__} from {_origin(name)}",
        f"events kept: {listed}{more} of {session.number_of_events()}",
        f"shows {rule.id} {rule.name} under {model.name} (Linux {model.versions})"
        f"{absent}: xenm2p replay --kernel {shlex.quote(kernel_of(session))}{assumed}",
    ]


def _origin(name: str) -> str:
    """The input's name, and what tells its content apart."""
    from xenm2p.cli.session import digest_of

    if name == "-" or not Path(name).is_file():
        return "standard input" if name == "-" else name
    return f"{Path(name).name}, sha256 {digest_of(name)}"
