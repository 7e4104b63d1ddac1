"""`xenm2p check`: the integrity of a trace file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.errors import EXIT_CLEAN, EXIT_LOSSY, EXIT_UNREADABLE
from xenm2p.report.formats import WRITERS

if TYPE_CHECKING:
    from xenm2p.cli.reading import Reading

MAX_LOSSES = 20  # how many damaged places are told one by one


@click.command("check")
@options.trace_argument
@options.format_option(WRITERS, default="plain")
@options.output_options
@options.strict_option
@options.quiet_option
@options.progress_option
def check_command(
    trace: str, format_: str, output: str, force: bool, strict: bool, quiet: bool,
    progress: bool,
) -> int:
    """Read TRACE to its end and say whether it is whole: every value, every checksum of an
    .xm2p file, what is damaged and where, events that the tracer lost, and times that go
    backwards.

    Exits with 0 when everything can be read, with 3 when something is damaged. A file
    whose writer was killed is whole up to its end; like events that the tracer lost, that
    is 4 with --strict and else 0.

    \b
    Examples:
      xenm2p check trace.xm2p
      xenm2p check --strict -q trace.txt || echo "events are missing"
    """
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.reading import read_through
    from xenm2p.report.fields import SCHEMA
    from xenm2p.report.pairs import write_pairs

    check_writable(output, force=force)
    reading = read_through(trace, progress=progress and not quiet)
    if not quiet:
        with text_output(output, force=force) as out:
            write_pairs(out, format_, f"{trace}: {_verdict(reading)}",
                        {"schema": SCHEMA, "trace": trace}, _pairs(reading))
    if reading.damage:
        return EXIT_UNREADABLE
    return EXIT_LOSSY if strict and reading.lossy else EXIT_CLEAN


def _verdict(reading: Reading) -> str:
    if reading.damage:
        return "damaged"
    if reading.losses:
        return "ends early"
    return "whole, but the tracer lost events" if reading.lossy else "whole"


def _pairs(reading: Reading) -> list[tuple[str, Any]]:
    contents = reading.contents
    losses = [loss.sentence() for loss in reading.losses[:MAX_LOSSES]]
    left = len(reading.losses) - len(losses)
    backwards = f"first at event {contents.first_back}" if contents.backwards else None
    pairs: list[tuple[str, Any]] = [
        ("verdict", _verdict(reading)), ("format", reading.format),
        ("events", contents.events), ("kinds", dict(contents.by_kind())),
        *reading.time_pairs(), ("backward_times", contents.backwards),
        ("backwards", backwards), ("lost_events", contents.lost),
    ]
    if reading.report is not None:
        pairs += [("chunks", reading.report.chunks), ("lost_bytes", reading.report.lost_bytes)]
    return [*pairs, ("damage", losses + [f"{left} more"] * bool(left)),
            ("notes", list(reading.trace.notes))]
