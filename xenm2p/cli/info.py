"""`xenm2p info`: what is in a trace file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.errors import EXIT_CLEAN, UsageError
from xenm2p.report.formats import WRITERS

if TYPE_CHECKING:
    from xenm2p.cli.reading import Reading


@click.command("info")
@options.trace_argument
@options.format_option(WRITERS, default="plain")
@options.output_options
@options.merge_option
@options.vmemmap_base_option
@options.quiet_option
@options.progress_option
def info_command(
    trace: str, format_: str, output: str, force: bool, merge: tuple[str, ...],
    vmemmap_base: int | None, quiet: bool, progress: bool,
) -> int:
    """Say what is in TRACE: its format, kernel and model, domain, origin, memory, and how
    many events of which kind, over which time, pages and frames.

    Nothing is replayed. What is damaged or missing is told as `xenm2p check` tells it, but
    is no failure here.

    \b
    Examples:
      xenm2p info trace.txt.xz
      xenm2p info -f json trace.xm2p
    """
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.reading import read_through
    from xenm2p.report.fields import SCHEMA
    from xenm2p.report.pairs import write_pairs

    check_writable(output, force=force)
    reading = read_through(trace, progress=progress and not quiet, merge=merge,
                           vmemmap_base=vmemmap_base)
    with text_output(output, force=force) as out:
        write_pairs(out, format_, trace, {"schema": SCHEMA, "trace": trace}, _pairs(reading))
    return EXIT_CLEAN


def _pairs(reading: Reading) -> list[tuple[str, Any]]:
    trace, contents = reading.trace, reading.contents
    pairs: list[tuple[str, Any]] = [
        ("format", reading.format), ("kernel", trace.kernel), ("model", _model(trace.kernel)),
        ("domain", trace.domain), ("origin", trace.origin or None),
        ("memory_rows", len(trace.memory)),
        ("memory_frames", int(trace.memory.count.sum())), ("m2p_rows", len(trace.m2p)),
        ("events", contents.events), ("kinds", dict(contents.by_kind())),
        *reading.time_pairs(),
        ("pages", len(contents.pages)), ("frames", len(contents.frames)),
        ("calls", len(contents.calls)), ("cpus", len(contents.cpus)),
        ("tasks", len(contents.tasks)), ("lost_events", contents.lost),
    ]
    if reading.report is not None:
        report = reading.report
        pairs += [("chunks", report.chunks), ("checkpoints", report.checkpoints),
                  ("encodings", " ".join(sorted(report.encodings)))]
    return [*pairs, ("damage", reading.loss_sentences()), ("notes", reading.notes())]


def _model(kernel: str | None) -> str | None:
    """The model of the traced kernel; None where the trace names none that has one."""
    from xenm2p.kernels import model_for

    if kernel is None:
        return None
    try:
        return model_for(kernel).name
    except UsageError as error:
        return f"none: {error}"
