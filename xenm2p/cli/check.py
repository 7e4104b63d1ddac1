"""`xenm2p check`: the integrity of a trace file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.errors import EXIT_CLEAN, EXIT_FINDINGS, EXIT_LOSSY, EXIT_UNREADABLE
from xenm2p.report.formats import WRITERS

if TYPE_CHECKING:
    from xenm2p.cli.reading import Reading
    from xenm2p.cli.session import ReplayRequest

Pairs = list[tuple[str, Any]]

MAX_LOSSES = 20  # how many damaged places are told one by one
MAX_MISSES = 10  # how many differences of model and machine


@click.command("check")
@options.trace_argument
@click.option("--model", "wants_model", is_flag=True,
              help="Compare the p2m writes seen on the machine with the kernel model's, event "
                   "by event. Under the traced kernel's model, or that of --kernel; --kernel "
                   "auto tries all.")
@options.kernel_options
@options.format_option(WRITERS, default="plain")
@options.output_options
@options.strict_option
@options.quiet_option
@options.progress_option
def check_command(
    trace: str, wants_model: bool, format_: str, output: str, force: bool, strict: bool,
    quiet: bool, progress: bool, **parameters: Any,
) -> int:
    """Read TRACE to its end and say whether it is whole: every value, every checksum of an
    .xm2p file, what is damaged and where, events that the tracer lost, and times that go
    backwards.

    Exits with 0 when everything can be read, with 3 when something is damaged. A file
    whose writer was killed is whole up to its end; like events that the tracer lost, that
    is 4 with --strict and else 0.

    With --model it also says how many of the p2m writes that the machine made are those
    of the kernel model, how many the model does not explain, how many the model makes and
    the machine never did, and the first of both. It
    exits with 1 where there is any that a loss does not explain.

    \b
    Examples:
      xenm2p check trace.xm2p
      xenm2p check --model trace.txt.xz
      xenm2p check --model --kernel auto trace.xm2p
      xenm2p check --strict -q trace.txt || echo "events are missing"
    """
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.reading import read_through
    from xenm2p.report.fields import SCHEMA
    from xenm2p.report.pairs import write_pairs

    check_writable(output, force=force)
    request = _request(parameters, strict=strict, quiet=quiet, progress=progress)
    reading = read_through(trace, progress=progress and not quiet, memory=request.memory,
                           again=wants_model, merge=request.merge)
    pairs = _pairs(reading)
    differs = False
    if wants_model:
        found, differs = _against_model(reading, request)
        pairs += found
    if not quiet:
        with text_output(output, force=force) as out:
            write_pairs(out, format_, f"{trace}: {_verdict(reading)}",
                        {"schema": SCHEMA, "trace": trace}, pairs)
    if reading.damage:
        return EXIT_UNREADABLE
    if differs:
        return EXIT_FINDINGS
    return EXIT_LOSSY if strict and reading.lossy else EXIT_CLEAN


def _request(
    parameters: dict[str, Any], *, strict: bool, quiet: bool, progress: bool
) -> ReplayRequest:
    """How to replay for a comparison: judged by the quick engine."""
    from xenm2p.cli.session import check_kernels, request_of

    request = request_of(parameters | {
        "assume_dio": False, "engine": "vector", "strict": strict, "quiet": quiet,
        "progress": progress})
    check_kernels(request)
    return request


def _against_model(reading: Reading, request: ReplayRequest) -> tuple[Pairs, bool]:
    """What --model adds, and whether model and machine differ."""
    from xenm2p.cli.session import chosen_heading, heading_of, model_agreements
    from xenm2p.report.agreement import agreement_pairs

    # Where nobody says which kernel was traced, its writes do.
    has_kernel = request.kernel or request.traced_kernel or reading.trace.kernel
    has_writes = "p2m_write" in dict(reading.contents.by_kind())
    tries_all = request.kernel == options.AUTO or (has_writes and not has_kernel)
    if tries_all:
        found = model_agreements(reading.trace, request, keep=MAX_MISSES)
        heading = chosen_heading(reading.name, reading.trace, request, found)
    else:
        heading = heading_of(reading.name, reading.trace, request)
        found = model_agreements(reading.trace, request, [heading.model], keep=MAX_MISSES)
    shown = next(each for each in found if each.model == heading.model)
    return (agreement_pairs(shown, heading.kernel_from, found),
            shown.misses > shown.unsure)


def _verdict(reading: Reading) -> str:
    if reading.damage:
        return "damaged"
    if reading.losses:
        return "ends early"
    return "whole, but the tracer lost events" if reading.lossy else "whole"


def _pairs(reading: Reading) -> Pairs:
    contents = reading.contents
    losses = [loss.sentence() for loss in reading.losses[:MAX_LOSSES]]
    left = len(reading.losses) - len(losses)
    backwards = f"first at event {contents.first_back}" if contents.backwards else None
    pairs: Pairs = [
        ("verdict", _verdict(reading)), ("format", reading.format),
        ("events", contents.events), ("kinds", dict(contents.by_kind())),
        *reading.time_pairs(), ("backward_times", contents.backwards),
        ("backwards", backwards), ("lost_events", contents.lost),
    ]
    if reading.report is not None:
        pairs += [("chunks", reading.report.chunks), ("lost_bytes", reading.report.lost_bytes)]
    return [*pairs, ("damage", losses + [f"{left} more"] * bool(left)),
            ("notes", list(reading.trace.notes))]
