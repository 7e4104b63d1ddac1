"""`xenm2p bisect`: which kernel brings a finding in, and which cures it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.errors import EXIT_CLEAN, EXIT_FINDINGS
from xenm2p.report.formats import MARKUPS, WRITERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenm2p.cli.session import ReplayRequest
    from xenm2p.compare.bisect import UnderModel
    from xenm2p.engine.replay import Segment
    from xenm2p.findings.wanted import Wanted
    from xenm2p.trace import Trace


@click.command("bisect")
@options.trace_argument
@click.option("--finding", metavar="ID",
              help="Look for this only: a rule's id or name (XM101, lock-collision), or of "
                   "these the one that an event proves (XM101@17).")
@click.option("--all", "all_findings", is_flag=True,
              help="Add each finding, and under which models it is there.")
@options.format_option(WRITERS, default="plain")
@options.output_options
@options.bisect_options
@options.run_options
def bisect_command(
    trace: str, finding: str | None, all_findings: bool, format_: str, output: str, force: bool,
    **parameters: Any,
) -> int:
    """Replay TRACE under every kernel model: which brings a finding in, which cures it.

    The table has a column for each model, headed by the first Linux version that behaves
    so: map and unmap have worked in five ways since 2.6.38, the last of them the rule of
    5.12 that a failing page does not stop the rest of its call. Below it stands, in words,
    which commit cured or brought what. Findings about p2m writes that the machine made
    (XM501) are judged under the model of the traced kernel alone.

    With --finding the exit status answers for a script: 1 where the finding is there under
    some model, 0 where it is under none; with --kernel under this one. Without, it is 0.

    \b
    Examples:
      xenm2p bisect traces/mount-ext4-same-domain.yaml
      xenm2p bisect --all -f github trace.xm2p
      xenm2p bisect -q --finding XM101 --kernel 3.5 trace.txt && echo cured
      xenm2p bisect --finding lock-collision@17 trace.yaml
    """
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.session import request_of
    from xenm2p.findings.wanted import Wanted
    from xenm2p.report.bisection import (
        BISECTION,
        EACH,
        bisection,
        bisection_rows,
        identified_rows,
    )
    from xenm2p.report.fields import SCHEMA
    from xenm2p.report.markup import render

    check_writable(output, force=force)
    request = request_of(parameters)
    wanted = None if finding is None else Wanted.of(finding)
    opened, found, lossy = _replay_all(trace, request, wanted, keep=all_findings)
    if not request.quiet:
        traced = request.traced_kernel or opened.kernel
        with text_output(output, force=force) as out:
            if format_ in MARKUPS:
                markup = MARKUPS[format_]
                out.write(markup.opening)
                out.write(render(markup, bisection(
                    trace, traced, found, _command(trace, request, found),
                    all_findings=all_findings)))
                out.write(markup.closing)
            else:
                table, rows = ((EACH, identified_rows(found)) if all_findings
                               else (BISECTION, bisection_rows(found)))
                header = {"schema": SCHEMA, "table": table.name, "kernel": traced,
                          "trace": trace}
                WRITERS[format_](out, table, header, [rows])
    is_there = wanted is not None and any(under.has(wanted.rule) for under in found)
    return request.exit_status(EXIT_FINDINGS if is_there else EXIT_CLEAN, lossy=lossy)


def _replay_all(
    name: str, request: ReplayRequest, wanted: Wanted | None, *, keep: bool
) -> tuple[Trace, list[UnderModel], bool]:
    """The trace, what each model finds in it, and whether events were lost or salvaged."""
    from xenm2p.cli.session import Session, sessions_under
    from xenm2p.compare.bisect import UnderModel
    from xenm2p.compare.together import replay_together

    def replay(session: Session) -> Callable[[Trace], Iterator[Segment]]:
        def over(trace: Trace) -> Iterator[Segment]:
            session.trace = trace
            return session.segments(details=False)

        return over

    sessions = sessions_under(name, request)
    trace = sessions[0].trace
    found = [UnderModel(session.heading.model, session.heading.judged, wanted, keep)
             for session in sessions]
    for place, segment in replay_together(trace, [replay(session) for session in sessions]):
        found[place].add(segment)
    return trace, found, any(session.lossy for session in sessions)


def _command(name: str, request: ReplayRequest, found: list[UnderModel]) -> list[str]:
    """The command that shows the worst finding whole, under the first model that has it."""
    from xenm2p.cli.session import command_line

    has_any = [under for under in found if under.counts]
    if name == "-" or not has_any:
        return []
    version = has_any[0].model.first
    arguments = [words for words in request.arguments() if words[0] != "--kernel"]
    named = ["--", name] if name.startswith("-") else [name]
    return command_line(["xenm2p", "replay"], ["--kernel", version], *arguments, named)
