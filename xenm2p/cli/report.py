"""`xenm2p report`: one bug report, ready to be sent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.errors import EXIT_CLEAN, EXIT_FINDINGS
from xenm2p.report.formats import MARKUPS

if TYPE_CHECKING:
    from xenm2p.cli.session import Session
    from xenm2p.compare.reduce import Target
    from xenm2p.report.bugreport import Input, Reduced

MOST_TOLD = 3  # findings, the worst of each rule, that are told in detail
MOST_REDUCED = 20  # events that a reduced trace may have to stand in a mail


@click.command("report")
@options.trace_argument
@click.option("--reduce/--no-reduce", "reduces", default=True,
              help=f"Add the smallest trace that shows the worst finding, where that has at "
                   f"most {MOST_REDUCED} events (default).")
@options.format_option(MARKUPS, default="plain")
@options.output_options
@options.replay_options
@options.fail_on_option
@options.run_options
def report_command(
    trace: str, reduces: bool, format_: str, output: str, force: bool, fail_on: str,
    **parameters: Any,
) -> int:
    """Write one bug report about TRACE that can be sent as it is.

    It has a subject line, the versions of the program and the kernels, the input with its
    hash, what the capture could and could not see, counts, collisions and findings, the
    stories of the worst of them (one of a rule), the kernel changes that cure them, the
    smallest trace that still shows the worst, and the commands that show all this again. In
    plain it is ASCII text of at most 72 columns; the trace can be cut out and replayed.

    The exit status is 1 where there are findings of at least --fail-on.

    \b
    Examples:
      xenm2p report traces/mount-ext4-same-domain.yaml
      xenm2p report trace.txt --memory p2m.txt --kernel 3.4 -o bug.txt
      xenm2p report -f github --no-reduce trace.xm2p | gh issue create -F -
    """
    from xenm2p.cli.explain import finding_told
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.session import open_session, request_of
    from xenm2p.compare.reduce import Target
    from xenm2p.findings import Severity
    from xenm2p.report.bugreport import bug_report
    from xenm2p.report.markup import render
    from xenm2p.report.overview import Overview
    from xenm2p.report.screen import worst_is_at_least
    from xenm2p.report.selection import Selection

    check_writable(output, force=force)
    session = open_session(trace, request_of(parameters), Selection(), again=True)
    overview = Overview(session.heading.model, session.selection)
    for segment in session.segments(details=False):
        overview.add(segment)
    worst = [Target.of(overview.tally.first_of(rule), 0)
             for rule in overview.tally.worst_rules()[:MOST_TOLD]]
    told = [block for place, target in enumerate(worst)
            for block in finding_told(session, target, 4 if place else 12)[1]]
    if not session.request.quiet:
        markup = MARKUPS[format_]
        blocks = bug_report(
            session.heading, overview, session.trace, _input(trace),
            told, _reduced(session, worst[0]) if reduces and worst else None,
            _commands(session, worst[0] if worst else None))
        with text_output(output, force=force) as out:
            out.write(markup.opening + render(markup, blocks) + markup.closing)
    has_failed = fail_on != options.NEVER and worst_is_at_least(
        overview, Severity[fail_on.upper()])
    return session.exit_status(EXIT_FINDINGS if has_failed else EXIT_CLEAN)


def _input(name: str) -> Input:
    from xenm2p.cli.session import digest_of
    from xenm2p.report.bugreport import Input

    if name == "-" or not Path(name).is_file():
        return Input(name, None, None)
    return Input(name, Path(name).stat().st_size, digest_of(name))


def _reduced(session: Session, target: Target) -> Reduced | None:
    """The worst finding's smallest trace, None where it is too large for a mail."""
    from xenm2p.cli.reduce import kernel_of, reduced_to
    from xenm2p.cli.session import command_line
    from xenm2p.formats.yaml_write import write_yaml
    from xenm2p.report.bugreport import Reduced

    small, numbers, _ = reduced_to(session, target, ())
    if len(numbers) > MOST_REDUCED:
        return None
    text = io.BytesIO()
    write_yaml(small, text)
    lines = text.getvalue().decode().splitlines()
    kernel = kernel_of(session)
    assumed = [["--assume-dio"]] * session.request.assume_dio
    return Reduced([line for line in lines if not line.startswith("#")], len(numbers),
                   session.number_of_events(),
                   command_line(["xenm2p", "replay"], ["--kernel", kernel], *assumed,
                                ["small.yaml"]))


def _commands(session: Session, worst: Target | None) -> dict[str, list[str]]:
    """The commands that give the same again; none for what came from standard input."""
    from xenm2p.cli.session import command_line

    name = session.heading.name
    if name == "-":
        return {}
    replayed = [*session.request.arguments(), ["--", name] if name.startswith("-") else [name]]
    commands = {"To see it again": command_line(["xenm2p", "replay"], *replayed)}
    if worst is not None:
        commands["The worst one's whole story"] = command_line(
            ["xenm2p", "explain"], *replayed, [str(worst)])
        others = [words for words in replayed if words[0] != "--kernel"]
        commands["Under every kernel"] = command_line(["xenm2p", "bisect"], *others)
    return commands
