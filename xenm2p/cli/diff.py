"""`xenm2p diff`: what is not the same in two runs, or under two kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.errors import EXIT_CLEAN, EXIT_FINDINGS, EXIT_LOSSY, UsageError
from xenm2p.report.formats import MARKUPS, WRITERS

if TYPE_CHECKING:
    from contextlib import ExitStack

    from xenm2p.cli.session import ReplayRequest, Session
    from xenm2p.compare.alignment import Run
    from xenm2p.formats.saved import SavedTable
    from xenm2p.report.fields import Columns
    from xenm2p.report.hunks import Hunk
    from xenm2p.report.markup import Block
    from xenm2p.report.overview import Heading
    from xenm2p.trace import Trace

LIMIT = 20


def _side_options(command: Any) -> Any:
    for side in ("b", "a"):
        command = click.option(
            f"--memory-{side}", metavar="FILE", shell_complete=options.complete_file,
            help=f"p2m dump of {side.upper()}, in place of --memory.")(command)
        command = click.option(
            f"--kernel-{side}", metavar="KERNEL",
            help=f"Kernel of {side.upper()}, in place of --kernel.")(command)
    return command


@click.command("diff")
@click.argument("a", metavar="A", shell_complete=options.complete_file)
@click.argument("b", metavar="[B]", required=False, shell_complete=options.complete_file)
@_side_options
@click.option("-C", "--context", metavar="N", type=click.IntRange(0, 1000), default=2,
              show_default=True, help="Show N events around each difference.")
@click.option("--limit", metavar="N", type=click.IntRange(0), default=LIMIT,
              show_default=True, help="Show N differences, those that matter most; 0: all.")
@click.option("-y", "--side-by-side", is_flag=True, help="Show A on the left, B on the right.")
@options.format_option(WRITERS, default="plain")
@options.output_options
@options.replay_options
@options.filter_options
@options.run_options
def diff_command(
    a: str, b: str | None, kernel_a: str | None, kernel_b: str | None, memory_a: str | None,
    memory_b: str | None, context: int, limit: int, side_by_side: bool, format_: str,
    output: str, force: bool, **parameters: Any,
) -> int:
    """Compare two runs, or one run under two kernels.

    With one TRACE (or the same twice) the events are the same, and what two kernels make
    of them is compared: results, p2m transitions, what mfn_to_pfn finds, and findings.

    With two traces their events are aligned by what two runs of one workload have in
    common. Pages, frames, refs, handles, calls, tasks, domains and times may be others, as
    long as each always stands for the same one of the other run; the processor is not
    compared. Shown is what is missing, inserted, changed, or moved among events of its own
    kind; what only comes earlier or later among events of other kinds (interleaved) is
    mostly the processors' doing and is shown last. Both traces are held in memory, some 300
    bytes an event of both.

    Saved replays (`xenm2p replay -f jsonl`, with --events for all) are compared table by
    table, with each other or with a trace.

    -f jsonl, json, csv and tsv write the table `diff`, all of it. The exit status is 0
    where both are the same, 1 where they differ.

    \b
    Examples:
      xenm2p diff trace.yaml --kernel-a 3.4 --kernel-b 3.5
      xenm2p diff monday.txt.xz tuesday.txt.xz
      xenm2p diff -C 0 --kind map --kind unmap good.xm2p bad.xm2p
      xenm2p diff saved.jsonl trace.xm2p -q || echo "no longer the same"
    """
    from xenm2p.cli.output import check_writable
    from xenm2p.cli.session import request_of, selection_of

    check_writable(output, force=force)
    request = request_of(parameters)
    asked = Asked(a, b if b is not None else a, format_, output, force, context,
                  limit or None, side_by_side, request)
    sides = [_request_of_side(request, kernel, memory)
             for kernel, memory in ((kernel_a, memory_a), (kernel_b, memory_b))]
    saved = [_is_saved(name) for name in (asked.a, asked.b)]
    if any(saved):
        return _compare_saved(asked, saved, sides, parameters)
    if _is_one(asked.a, asked.b):
        if b is None and sides[0] == sides[1]:
            raise UsageError("one TRACE: give --kernel-a and --kernel-b, or a second trace")
        if sides[0].memory != sides[1].memory:
            raise UsageError("one TRACE has one --memory")
        return _compare_outcomes(asked, sides, selection_of(dict(parameters)),
                                 selection_of(dict(parameters)))
    if request.merge or request.grants:
        raise UsageError("--merge and --grants say of one TRACE only; convert each trace first")
    return _compare_events(asked, sides, parameters)


@dataclass(frozen=True, slots=True)
class Asked:
    """What to compare, and how to show it."""

    a: str
    b: str
    format: str
    output: str
    force: bool
    context: int
    limit: int | None
    side_by_side: bool
    request: ReplayRequest

    @property
    def wants_text(self) -> bool:
        """Whether a person reads it."""
        return self.format in MARKUPS


def _request_of_side(
    request: ReplayRequest, kernel: str | None, memory: str | None
) -> ReplayRequest:
    from dataclasses import replace

    from xenm2p.cli.session import check_kernels

    side = replace(request, kernel=kernel or request.kernel, memory=memory or request.memory)
    check_kernels(side)
    return side


def _is_one(a: str, b: str) -> bool:
    if a == b:
        return True
    try:
        return "-" not in (a, b) and Path(a).samefile(b)
    except (OSError, ValueError):
        return False  # the reader will tell


def _is_saved(name: str) -> bool:
    from xenm2p.formats.saved import looks_like_replay
    from xenm2p.formats.streams import open_input

    if name == "-" or (Path(name).exists() and not Path(name).is_file()):
        return False  # a pipe can be read once only; a directory holds a capture
    with open_input(name) as opened:
        return looks_like_replay(opened.first)


# -- one trace under two kernels -------------------------------------------------------


def _compare_outcomes(
    asked: Asked, sides: list[ReplayRequest], selection_a: Any, selection_b: Any
) -> int:
    from xenm2p.cli.session import Session, open_session
    from xenm2p.compare.outcomes import Comparison, two_of
    from xenm2p.findings import Context
    from xenm2p.report.outcomediff import OutcomeDiff, as_columns

    again = options.AUTO in (side.kernel for side in sides)
    opened = open_session(asked.a, sides[0], selection_a, again=again)
    headings = [_heading(asked.a, opened.trace, side) for side in sides]
    sessions = [
        Session(side, heading, trace, selection, opened.losses)
        for side, heading, trace, selection in zip(
            sides, headings, two_of(opened.trace), (selection_a, selection_b), strict=True)]
    sessions[1].request.progress = False  # one bar is enough
    models = [session.heading.model for session in sessions]
    contexts = [Context(session.trace, session.heading.model) for session in sessions]
    found = OutcomeDiff(contexts[0], contexts[1], selection_a, asked.context,
                        asked.limit if asked.wants_text else 0)
    steps = Comparison.of(*models).steps(
        *(session.segments(details=True) for session in sessions))
    names = [asked.a, asked.b]
    kernels = [(f"kernel {side}", f"{model.name} (Linux {model.versions})")
               for side, model in zip("AB", models, strict=True)]

    def batches() -> Iterator[Columns]:
        for step in steps:
            rows = found.add(step)
            if rows:
                yield as_columns(rows)

    if asked.wants_text:
        for _ in batches():
            pass
        _write_text(asked, names, found.same, [*kernels, *found.items()], found.hunks,
                    found.left_out, _finding_table(found.finding_rows()))
    else:
        _write_rows(asked, names, batches(), kernel_a=models[0].name, kernel_b=models[1].name)
    return _status(found.same, sessions)


def _heading(name: str, trace: Trace, side: ReplayRequest) -> Heading:
    from xenm2p.cli.session import chosen_heading, heading_of, model_agreements

    if side.kernel == options.AUTO:
        return chosen_heading(name, trace, side, model_agreements(trace, side))
    return heading_of(name, trace, side)


def _finding_table(rows: list[list[str]]) -> list[Block]:
    from xenm2p.report.markup import Rows

    headers = ("finding", "name", "only in A", "only in B", "changed")
    return [Rows(headers, rows, right=frozenset(headers[2:]))] if rows else []


# -- two traces ------------------------------------------------------------------------


def _compare_events(asked: Asked, sides: list[ReplayRequest], chosen: dict[str, Any]) -> int:
    from xenm2p.cli.session import open_session, selection_of
    from xenm2p.compare.alignment import align
    from xenm2p.report.eventdiff import EventDiff

    if asked.a == "-" and asked.b == "-":
        raise UsageError("standard input cannot be read twice")
    sessions = [open_session(name, side, selection_of(dict(chosen)))
                for name, side in zip((asked.a, asked.b), sides, strict=True)]
    runs = [_run_of(session) for session in sessions]
    found = EventDiff.of(runs[0], runs[1], align(*runs))
    names = [asked.a, asked.b]
    if asked.wants_text:
        hunks, left = ([], 0) if found.same else found.hunks(asked.context, asked.limit)
        items = [("events", f"{len(runs[0])}")] if found.same else list(found.items())
        _write_text(asked, names, found.same, items, hunks, left, [])
    else:
        _write_rows(asked, names, found.rows())
    return _status(found.same, sessions)


def _run_of(session: Session) -> Run:
    """All events of a trace that the selection chooses."""
    import numpy as np

    from xenm2p.cli.progress import with_progress
    from xenm2p.compare.alignment import Run
    from xenm2p.engine.replay import unreplayed
    from xenm2p.trace import Events, Kind

    trace, selection = session.trace, session.selection
    wanted = session.request.progress and not session.request.quiet
    parts, numbers, begin = [], [], 0
    for events in with_progress(trace.chunks(), len, trace.length, wanted=wanted):
        session.lossy = session.lossy or bool((events.kind == Kind.LOST).any())
        if not selection.everything:
            segment = unreplayed(events, begin)
            selection.observe(segment, trace)
            rows = np.flatnonzero(selection.events(segment))
            numbers.append(rows + begin)
            begin += len(events)
            events = events.rows(rows)
        parts.append(events)
    session.lossy = session.lossy or bool(session.losses)
    return Run(trace, Events.concat(parts), np.concatenate(numbers) if numbers else None)


# -- saved replays ---------------------------------------------------------------------


def _compare_saved(
    asked: Asked, saved: list[bool], sides: list[ReplayRequest], chosen: dict[str, Any]
) -> int:
    from contextlib import ExitStack

    from xenm2p.report.saveddiff import SavedDiff

    if any(chosen.values()):
        raise UsageError("filters belong to the replay that was saved, not to its comparison")
    found = SavedDiff(asked.limit if asked.wants_text else 0)
    names = [asked.a, asked.b]
    with ExitStack() as stack:
        tables = [_saved_tables(name, stack) if is_saved else {}
                  for name, is_saved in zip(names, saved, strict=True)]
        for place, other in ((0, 1), (1, 0)):
            if not saved[place]:
                kernel = next(iter(tables[other].values())).header.get("kernel")
                tables[place] = _replayed_tables(names[place], sides[place], kernel, stack)
        batches = found.compare(*tables)
        if asked.wants_text:
            for _ in batches:
                pass
            _write_text(asked, names, found.same, list(found.items()), found.hunks,
                        found.left_out, [])
        else:
            _write_rows(asked, names, batches)
    return EXIT_CLEAN if found.same else EXIT_FINDINGS


def _saved_tables(name: str, stack: ExitStack) -> dict[str, SavedTable]:
    from xenm2p.formats.saved import read_tables
    from xenm2p.formats.streams import open_input

    with open_input(name) as opened:
        tables = read_tables(opened)
    for table in tables.values():
        stack.callback(table.close)
    return tables


def _replayed_tables(
    name: str, side: ReplayRequest, kernel: Any, stack: ExitStack
) -> dict[str, SavedTable]:
    """The tables of a trace replayed now, under the saved replay's kernel unless asked."""
    import io
    import tempfile
    from dataclasses import replace

    from xenm2p.cli.replay import Output
    from xenm2p.cli.session import open_session
    from xenm2p.formats.saved import read_tables
    from xenm2p.formats.streams import BinaryInput
    from xenm2p.report.selection import Selection

    if side.kernel is None and isinstance(kernel, str):
        side = replace(side, kernel=kernel)
    file = tempfile.TemporaryFile("w+b")  # noqa: SIM115
    stack.callback(file.close)
    text = io.TextIOWrapper(file, encoding="utf-8", write_through=True, newline="\n")
    session = open_session(name, side, Selection())
    Output(text, "jsonl", True, replace(side, quiet=False)).replay(session, options.NEVER, [])
    text.detach()
    file.seek(0)
    tables = read_tables(BinaryInput(name, io.BufferedReader(file.raw), None, b""))
    for table in tables.values():
        stack.callback(table.close)
    return tables


# -- output ----------------------------------------------------------------------------


def _status(same: bool, sessions: Iterable[Session]) -> int:
    status = EXIT_CLEAN if same else EXIT_FINDINGS
    return EXIT_LOSSY if any(
        session.exit_status(status) == EXIT_LOSSY for session in sessions) else status


def _write_text(
    asked: Asked, names: list[str], same: bool, items: list[tuple[str, str]],
    hunks: list[Hunk], left_out: int, more: list[Block],
) -> None:
    from xenm2p.cli.output import text_output
    from xenm2p.report.hunks import side_by_side, unified
    from xenm2p.report.markup import Items, Lines, Verbatim, render

    if asked.request.quiet:
        return
    blocks: list[Block] = [
        Lines([f"--- {names[0]}", f"+++ {names[1]}"]),
        Items([("verdict", "the same" if same else "not the same"), *items]), *more]
    markup = MARKUPS[asked.format]
    with text_output(asked.output, force=asked.force) as out:
        out.write(markup.opening)
        out.write(render(markup, blocks))
        shown = list((side_by_side if asked.side_by_side else unified)(hunks))
        if shown:
            # In plain text the hunks stand as in a patch, not further in.
            out.write("\n" + ("\n".join(shown) + "\n" if asked.format == "plain"
                              else render(markup, [Verbatim(shown)])))
        if left_out:
            out.write("\n" + render(markup, [
                Lines([f"{left_out} more differences: --limit 0, or -f jsonl"])]))
        out.write(markup.closing)


def _write_rows(
    asked: Asked, names: list[str], batches: Iterator[Columns], **more: str
) -> None:
    from xenm2p.cli.output import text_output
    from xenm2p.report.fields import DIFF, SCHEMA

    if asked.request.quiet:
        for _ in batches:
            pass
        return
    header = {"schema": SCHEMA, "table": DIFF.name, "a": names[0], "b": names[1], **more}
    with text_output(asked.output, force=asked.force) as out:
        WRITERS[asked.format](out, DIFF, header, batches)
