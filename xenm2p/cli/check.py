"""`xenm2p check`: the integrity of a trace file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.errors import EXIT_CLEAN, EXIT_FINDINGS, EXIT_LOSSY, EXIT_UNREADABLE, UsageError
from xenm2p.report.formats import WRITERS

if TYPE_CHECKING:
    from xenm2p.cli.reading import Reading
    from xenm2p.cli.session import ReplayRequest

Pairs = list[tuple[str, Any]]



@click.command("check")
@options.trace_argument
@click.option("--model", "wants_model", is_flag=True,
              help="Compare the p2m writes seen on the machine with the kernel model's, event "
                   "by event. Under the traced kernel's model, or that of --kernel; --kernel "
                   "auto tries all.")
@click.option("--against", metavar="FILE", shell_complete=options.complete_file,
              help="Compare with what the hypervisor tells: a file of xentrace (-e 0x0010f000), "
                   "or a grant-table dump (xl debug-keys g; xl dmesg).")
@click.option("--slice", "slice_ns", metavar="TIME", callback=options.duration,
              help="With xentrace: count in slices of about this time (500ms, 2s). Default: a "
                   "twentieth of the trace.")
@click.option("--at", metavar="POINT", callback=options.point,
              help="With a grant-table dump: compare what is live after this event number or "
                   "time. Default: where they differ least.")
@options.kernel_options
@options.format_option(WRITERS, default="plain")
@options.output_options
@options.strict_option
@options.quiet_option
@options.progress_option
def check_command(
    trace: str, wants_model: bool, against: str | None, slice_ns: int | None,
    at: tuple[int, bool] | None, format_: str, output: str, force: bool, strict: bool,
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
    the machine never did, and the first of both. Writes that no map or unmap explains
    (ballooning) are replayed, not compared. It exits with 1 where anything differs that a
    loss does not explain.

    With --against FILE it compares the trace with what Xen itself tells. A file of
    xentrace counts every map and unmap, by domain: where it has more, in which slice of
    time, the capture lost events; it tells no page and no frame. The two clocks are
    aligned by sequences of maps and unmaps that both have; where they have too few in
    common only totals are compared. Slices are parted at quiet moments, each ends where
    the next begins, and what is before or after the trace is not missing.

    A grant-table dump tells which grants and frames are mapped at one moment, no pages and
    no handles; the live shares of the replay are compared with it. Ring pages, which
    xenbus maps itself, are in no capture: up to 32 that look so are no difference. It
    exits with 1 where more differs.

    \b
    Examples:
      xenm2p check trace.xm2p
      xenm2p check trace.txt --against xentrace.bin --slice 500ms
      xenm2p check trace.txt --memory p2m.txt --against xl-dmesg.txt --at 1.5s
      xenm2p check --model trace.txt.xz
      xenm2p check --model --kernel auto trace.xm2p
      xenm2p check --strict -q trace.txt || echo "events are missing"
    """
    from xenm2p.cli.checking import against_file, against_model
    from xenm2p.cli.output import check_writable, text_output
    from xenm2p.cli.reading import read_through
    from xenm2p.report.fields import SCHEMA
    from xenm2p.report.pairs import write_pairs

    for flag, value in (("--slice", slice_ns), ("--at", at)):
        if value is not None and against is None:
            raise UsageError(f"{flag} goes with --against FILE")
    check_writable(output, force=force)
    request = _request(parameters, strict=strict, quiet=quiet, progress=progress)
    reading = read_through(trace, progress=progress and not quiet, memory=request.memory,
                           grants=request.grants, merge=request.merge,
                           again=wants_model or against is not None,
                           vmemmap_base=request.vmemmap_base)
    pairs = _pairs(reading)
    differs = False
    if wants_model:
        found, differs = against_model(reading, request)
        pairs += found
    if against is not None:
        found, misses = against_file(reading, request, against, slice_ns, at)
        pairs += found
        differs = differs or misses
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


def _verdict(reading: Reading) -> str:
    if reading.damage:
        return "damaged"
    if reading.losses:
        return "ends early"
    return "whole, but the tracer lost events" if reading.lossy else "whole"


def _pairs(reading: Reading) -> Pairs:
    contents = reading.contents
    backwards = f"first at event {contents.first_back}" if contents.backwards else None
    pairs: Pairs = [
        ("verdict", _verdict(reading)), ("format", reading.format),
        ("events", contents.events), ("kinds", dict(contents.by_kind())),
        *reading.time_pairs(), ("backward_times", contents.backwards),
        ("backwards", backwards), ("lost_events", contents.lost),
    ]
    if reading.report is not None:
        pairs += [("chunks", reading.report.chunks), ("lost_bytes", reading.report.lost_bytes)]
    return [*pairs, ("damage", reading.loss_sentences()),
            ("notes", reading.notes())]
