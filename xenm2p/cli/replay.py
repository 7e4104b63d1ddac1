"""`xenm2p replay`: what a trace did under a kernel model, on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from xenm2p.cli import options
from xenm2p.cli.messages import say
from xenm2p.errors import EXIT_CLEAN, EXIT_FINDINGS, XenM2PError
from xenm2p.report.formats import MARKUPS

if TYPE_CHECKING:
    from xenm2p.cli.session import ReplayRequest, Session

ROW_FORMATS = ("jsonl", "json")
Filters = Sequence[Sequence[str]]  # option and value, as typed


@click.command("replay")
@options.trace_arguments
@click.option("--events", is_flag=True,
              help="Add every event with the p2m entries it changed.")
@options.format_option(
    (*MARKUPS, *ROW_FORMATS), default="plain",
    hints=dict.fromkeys(("csv", "tsv"), "holds one table: xenm2p export -t findings -f {name}"))
@options.output_options
@options.replay_options
@options.filter_options
@options.fail_on_option
@options.run_options
def replay_command(
    traces: tuple[str, ...], events: bool, format_: str, output: str, force: bool,
    fail_on: str, **parameters: Any,
) -> int:
    """Replay each TRACE and show counts, collisions and findings.

    A TRACE is a capture (ftrace text), a YAML trace or an .xm2p file, found by content;
    plain or compressed with gzip, xz or zstd; - is standard input. With --merge all files
    named are one capture. Without --kernel the
    replay is under the kernel that was traced.

    Filters and --from, --to choose what is shown and what the exit status tells of; they
    never change what is replayed, so that the state is right inside the window. With -f
    jsonl or json the rows of the tables summary, collisions and findings (with --events
    also events and transitions) follow each other, each table after its header; one table
    in csv is `xenm2p export`.

    The exit status is 1 where findings of at least --fail-on are shown, and with several
    traces the worst of all.

    \b
    Examples:
      xenm2p replay traces/mount-ext4-same-domain.yaml --kernel 3.4
      xenm2p replay trace.txt.xz --memory p2m.txt --assume-dio -k 3.4
      xenm2p replay --events --pfn 0x1010 trace.yaml
      xenm2p replay cpu0.txt --merge cpu1.txt --merge cpu2.txt
      xenm2p replay -f github -o report.md trace.xm2p
      xenm2p replay -q --fail-on warning *.xm2p && echo clean
    """
    from xenm2p.cli.output import STDOUT, check_writable, text_output
    from xenm2p.cli.session import open_session, request_of, selection_of

    check_writable(output, force=force)
    request = request_of(parameters)
    if request.merge:
        request.merge = (*traces[1:], *request.merge)
        traces = traces[:1]
    filters = options.filters_as_typed(click.get_current_context())
    statuses = []
    with text_output(output, force=force) as out:
        shown = Output(out, format_, events, request)
        shown.begin()
        for name in traces:
            try:
                session = open_session(name, request, selection_of(dict(parameters)))
                statuses.append(shown.replay(session, fail_on, filters))
            except XenM2PError as error:
                # The others are still worth a look, unless the output must be whole.
                if len(traces) == 1 or output != STDOUT:
                    raise
                say(error)
                statuses.append(error.exit_code)
        shown.end()
    return max(statuses)


class Output:
    """One output for all the traces of a command."""

    def __init__(self, out: TextIO, format_: str, events: bool, request: ReplayRequest) -> None:
        self._out = out
        self._format = format_
        self._events = events
        self._request = request
        self._is_first = True

    def begin(self) -> None:
        """What stands before the first replay."""
        if not self._request.quiet:
            self._out.write("[" if self._format == "json" else self._opening())

    def end(self) -> None:
        """What stands after the last replay."""
        if not self._request.quiet:
            self._out.write("\n]\n" if self._format == "json" else self._closing())

    def _opening(self) -> str:
        return MARKUPS[self._format].opening if self._format in MARKUPS else ""

    def _closing(self) -> str:
        return MARKUPS[self._format].closing if self._format in MARKUPS else ""

    def replay(self, session: Session, fail_on: str, filters: Filters) -> int:
        """Replay one trace, write what is asked for, and give its exit status."""
        from xenm2p.findings import Severity
        from xenm2p.report.overview import Overview
        from xenm2p.report.screen import worst_is_at_least

        overview = Overview(session.heading.model, session.selection)
        if self._request.quiet:
            for segment in session.segments(details=False):
                overview.add(segment)
        elif self._format in MARKUPS:
            self._write_screen(session, overview, filters)
        else:
            self._write_tables(session, overview)
        self._is_first = False
        has_failed = fail_on != options.NEVER and worst_is_at_least(
            overview, Severity[fail_on.upper()])
        return session.exit_status(EXIT_FINDINGS if has_failed else EXIT_CLEAN)

    def _write_screen(self, session: Session, overview: Any, filters: Filters) -> None:
        from xenm2p.findings import Context
        from xenm2p.report.markup import Verbatim, render
        from xenm2p.report.screen import screen
        from xenm2p.report.story import INDENT, event_lines

        markup = MARKUPS[self._format]
        context = Context(session.trace, session.heading.model)
        if not self._is_first:
            self._out.write("\n")
        for segment in session.segments(details=self._events):
            overview.add(segment)
            lines = list(event_lines(segment, context, session.selection)) if self._events else []
            if lines:
                self._out.write(render(markup, [Verbatim(lines, INDENT)]))
        if self._events:
            self._out.write("\n")
        more = _commands(session, filters)
        self._out.write(render(markup, screen(session.heading, overview, session.trace, more)))

    def _write_tables(self, session: Session, overview: Any) -> None:
        """The tables one after the other; rows wait in temporary files for their turn."""
        from contextlib import ExitStack
        from tempfile import SpooledTemporaryFile

        from xenm2p.findings import Context
        from xenm2p.report.fields import SUMMARY, TABLES
        from xenm2p.report.jsonrows import encode_rows, write_table_json, write_table_jsonl
        from xenm2p.report.tables import SEGMENT_TABLES

        names = ["collisions", "findings"] + ["events", "transitions"] * self._events
        context = Context(session.trace, session.heading.model)
        with ExitStack() as stack:
            waiting = {
                name: stack.enter_context(SpooledTemporaryFile(
                    1 << 20, "w+", encoding="utf-8", newline="\n"))
                for name in names
            }
            for segment in session.segments(details=self._events):
                overview.add(segment)
                for name, file in waiting.items():
                    columns = SEGMENT_TABLES[name](segment, context, session.selection)
                    file.writelines(
                        row + "\n" for row in encode_rows(TABLES[name], columns))
            write = write_table_json if self._format == "json" else write_table_jsonl
            separator = "\n" if self._is_first else ",\n"
            summary = encode_rows(SUMMARY, overview.summary(session.heading))
            tables: list[tuple[str, Any]] = [("summary", summary), *waiting.items()]
            for name, rows in tables:
                if name != "summary":
                    rows.seek(0)
                if self._format == "json":
                    self._out.write(separator)
                    separator = ",\n"
                write(self._out, session.header(name), (row.rstrip("\n") for row in rows))


def _commands(session: Session, filters: Filters) -> dict[str, list[str]]:
    """The commands that show all of what the screen shows the first of."""
    from xenm2p.cli.session import command_line

    name = session.heading.name
    if name == "-":
        return {}
    named = ["--", name] if name.startswith("-") else [name]
    replayed = [*session.request.arguments(), *filters, named]
    return {
        "story": command_line(["xenm2p", "explain"], *session.request.arguments(), named),
        "findings": command_line(["xenm2p", "export", "-t", "findings"], *replayed),
        "events": command_line(["xenm2p", "replay", "--events"], *replayed),
    }

