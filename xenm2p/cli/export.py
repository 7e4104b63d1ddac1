"""`xenm2p export`: one table of a replay, in any format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.cli.messages import say
from xenm2p.errors import EXIT_CLEAN
from xenm2p.report.fields import SUMMARY, TABLES, Columns
from xenm2p.report.formats import WRITERS

if TYPE_CHECKING:
    from xenm2p.cli.session import Session


@click.command("export")
@options.trace_argument
@click.option("-t", "--table", metavar="TABLE", required=True,
              help=f"One of {', '.join(TABLES)}.", **options.one_of("table", TABLES))
@options.format_option(WRITERS, default="csv")
@options.output_options
@options.replay_options
@options.filter_options
@options.run_options
def export_command(
    trace: str, table: str, format_: str, output: str, force: bool, **parameters: Any
) -> int:
    """Replay TRACE and write one table of it.

    csv, tsv, jsonl and json are written row by row in bounded memory; the other formats
    hold the whole table, because its layout depends on every row. Frames are text such as
    0x1a2b, F:0x1a2b (with the FOREIGN bit), I:0x1a2b and invalid; what is absent is null,
    or an empty cell in csv. The first line of jsonl is a header object with the schema,
    the table and the kernel model.

    With --from an .xm2p file is entered at its newest checkpoint before, where that gives
    the same rows: for all tables but locks and summary, without --domid, --ref, --task,
    --cpu, --kind and --strict.

    An export passes no judgement: it exits with 0 whatever the rows say.

    \b
    Examples:
      xenm2p export -t transitions trace.txt > transitions.csv
      xenm2p export -t findings -f jsonl --kernel 3.4 trace.xm2p
      xenm2p export -t events -f plain --from 120 --to 140 trace.txt
      xenm2p export -t shares -f github --pfn 0x8000 trace.txt
      zcat capture.gz | xenm2p export -t collisions --assume-dio -
    """
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.session import open_session, request_of, selection_of

    check_writable(output, force=force)
    request = request_of(parameters)
    session = open_session(trace, request, selection_of(parameters))
    with text_output(output, force=force) as out:
        batches = _summary(session) if table == SUMMARY.name else _batches(session, table)
        WRITERS[format_](out, TABLES[table], session.header(table), batches)
    if session.heading.traced_kernel is None and request.kernel is None and not request.quiet:
        say(f"{trace}: no kernel is named, replayed under {session.heading.model.name}")
    return session.exit_status(EXIT_CLEAN)


def _batches(session: Session, table: str) -> Iterator[Columns]:
    """The table's rows, a batch a segment."""
    from xenm2p.findings import Context
    from xenm2p.report.tables import SEGMENT_TABLES

    context = Context(session.trace, session.heading.model)
    columns_of = SEGMENT_TABLES[table]
    for segment in session.segments_of_window(table):
        yield columns_of(segment, context, session.selection)


def _summary(session: Session) -> Iterator[Columns]:
    from xenm2p.report.overview import Overview

    overview = Overview(session.heading.model, session.selection)
    for segment in session.segments(details=False):
        overview.add(segment)
    yield overview.summary(session.heading)
