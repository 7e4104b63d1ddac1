"""`xenm2p state`: what holds at one moment, or what differs between two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

import click

from xenm2p.cli import options
from xenm2p.cli.messages import say
from xenm2p.errors import EXIT_CLEAN, UsageError
from xenm2p.report.fields import STATE_TABLES
from xenm2p.report.formats import MARKUPS, WRITERS

if TYPE_CHECKING:
    from xenm2p.cli.session import Session
    from xenm2p.engine.state import State
    from xenm2p.report.fields import TableSpec
    from xenm2p.report.state import Row

Point = tuple[int, bool]  # an event number, or nanoseconds and True
Tables = list[tuple["TableSpec", "list[Row]"]]


def _points(
    ctx: click.Context, param: click.Parameter, value: tuple[str, str] | None
) -> tuple[Point, Point] | None:
    if value is None:
        return None
    first, last = (options.point(ctx, param, text) for text in value)
    return first, last


@click.command("state")
@options.trace_argument
@click.option("--at", metavar="POINT", callback=options.point,
              help="After this event, a number (1200), or after all up to a time with its unit "
                   "(1.5s, 20us). Default: after the last event.")
@click.option("--diff", "moments", nargs=2, metavar="POINT POINT", callback=_points,
              help="Show what differs between two moments.")
@click.option("-t", "--table", metavar="TABLE",
              help=f"Show one of {', '.join(STATE_TABLES)}. Default: all.",
              **options.one_of("table", STATE_TABLES))
@options.format_option(WRITERS, default="plain")
@options.output_options
@options.kernel_options
@options.holding_options
@options.quiet_option
def state_command(
    trace: str, at: Point | None, moments: tuple[Point, Point] | None, table: str | None,
    format_: str, output: str, force: bool, **parameters: Any,
) -> int:
    """Show what holds at a moment of TRACE: p2m and m2p entries that are not as they began,
    the m2p override lists newest first, live shares, held page locks, live grants.

    The moment is after an event or a time. An .xm2p file is entered at its newest
    checkpoint before, so that any moment of a file of any length takes well under a second;
    a time is looked for by halves there, so that times should ascend. All else is
    replayed from its begin.

    With --diff, rows that only the first moment has are marked -, those of the second +: a
    changed entry is one of each. csv and tsv hold one table, named by -t; jsonl and json
    all, each after its header, which names the event. A filter hides rows that have
    nothing of its kind, as locks have no --mfn. It passes no judgement: the exit status is
    0 whatever holds.

    \b
    Examples:
      xenm2p state --at 9 traces/mount-ext4-same-domain.yaml
      xenm2p state --at 12.5s -k 3.4 --pfn 0x8000-0x80ff trace.xm2p
      xenm2p state --diff 1.5s 1.6s -t shares trace.xm2p
      xenm2p state --at 1000000 -t locks -f csv trace.xm2p
    """
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.session import open_session, request_of
    from xenm2p.report.selection import Selection
    from xenm2p.report.state import Holding, compared, moment, state_rows, with_sign

    if at is not None and moments is not None:
        raise UsageError("--at is one moment, --diff are two: give one of the options")
    if format_ in ("csv", "tsv") and table is None:
        raise UsageError(f"{format_} holds one table: name it, as -t {next(iter(STATE_TABLES))}")
    check_writable(output, force=force)
    holding = Holding(**{name: parameters.pop(name) for name in Holding.__slots__})
    request = request_of(parameters | {
        "assume_dio": False, "engine": "vector", "strict": False, "progress": False})
    session = open_session(trace, request, Selection(), again=True)
    states = [_state_at(session, point) for point in (moments or (at,))]
    names = [table] if table else [*STATE_TABLES]
    rows = [state_rows(state, session.trace, holding) for state in states]
    tables: Tables = (
        [(STATE_TABLES[name], rows[0][name]) for name in names] if moments is None
        else [(with_sign(STATE_TABLES[name]), compared(name, rows[0][name], rows[1][name]))
              for name in names])
    title = f"{trace}: {' to '.join(map(moment, states))}, under {session.heading.model.name}"
    if not request.quiet:
        with text_output(output, force=force) as out:
            _write(out, format_, title, session, states, tables)
        if session.heading.traced_kernel is None and request.kernel is None:
            say(f"{trace}: no kernel is named, replayed under {session.heading.model.name}")
    return EXIT_CLEAN


def _state_at(session: Session, point: Point | None) -> State:
    """What holds after an event or a time. Raises UsageError for an event not there."""
    from xenm2p.engine.state import state_after
    from xenm2p.trace import event_beyond

    event = None
    if point is not None:
        value, is_time = point
        beyond = event_beyond(session.trace, value, by_halves=True) if is_time else value + 1
        event = None if beyond is None else beyond - 1
    try:
        return state_after(session.trace, session.heading.model, event)
    except UsageError as error:
        raise UsageError(f"{session.heading.name}: {error}") from None


def _write(
    out: TextIO, format_: str, title: str, session: Session, states: list[State], tables: Tables
) -> None:
    from xenm2p.report.jsonrows import encode_rows, write_table_json, write_table_jsonl
    from xenm2p.report.markup import Heading, render
    from xenm2p.report.state import columns_of, table_blocks

    if format_ in MARKUPS:
        markup = MARKUPS[format_]
        blocks = [block for table, rows in tables for block in table_blocks(table, rows)]
        out.write(markup.opening + render(markup, [Heading(title), *blocks]) + markup.closing)
        return
    events = [state.event for state in states]
    when = {"after_event": events[0]} if len(events) == 1 else {"after_events": events}
    if format_ in ("csv", "tsv"):
        (table, rows), = tables
        WRITERS[format_](out, table, {}, [columns_of(rows, table)])
        return
    write = write_table_json if format_ == "json" else write_table_jsonl
    separator = "[\n" if format_ == "json" else ""
    for table, rows in tables:
        out.write(separator)
        write(out, session.header(table.name) | when,
              encode_rows(table, columns_of(rows, table)))
        separator = ",\n" if format_ == "json" else ""
    if format_ == "json":
        out.write("\n]\n")
