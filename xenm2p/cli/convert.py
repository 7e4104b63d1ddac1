"""`xenm2p convert`: from any format that is read to any that is written."""

from __future__ import annotations

import click

from xenm2p.cli import options
from xenm2p.cli.messages import say
from xenm2p.cli.writing import check_target, write_trace, writing_options
from xenm2p.errors import EXIT_CLEAN, EXIT_LOSSY


@click.command("convert")
@options.trace_argument
@writing_options
@options.memory_option
@options.vmemmap_base_option
@options.merge_option
@options.grants_option
@options.strict_option
@options.quiet_option
@options.progress_option
def convert_command(
    trace: str, output: str, force: bool, to: str | None, compress: str | None,
    chunk_events: int | None, memory: str | None, vmemmap_base: int | None,
    merge: tuple[str, ...], grants: str | None, strict: bool, quiet: bool, progress: bool,
) -> int:
    """Convert TRACE to YAML, which people read and edit, or to .xm2p, which holds captures
    of any length and is read without parsing.

    The events keep their numbers. With --memory the p2m of a dump becomes part of the
    trace, with --grants the shares that were live before it, as its first events. Comments
    of a YAML trace are not kept; what a capture could not show is noted in either form, in
    YAML as comments. Damaged chunks of an .xm2p file are an
    error: `xenm2p check` tells what can still be had.

    \b
    Examples:
      xenm2p convert trace.txt.xz --memory p2m.txt -o trace.xm2p
      xenm2p convert trace.xm2p -o trace.yaml
      xenm2p convert per_cpu/ -o trace.xm2p
      xenm2p convert --to xm2p --compress zlib -o - trace.yaml | ssh host ...
    """
    from xenm2p.cli.output import check_writable
    from xenm2p.formats.binary_reader import Loss
    from xenm2p.formats.detect import read_trace

    target = check_target(output, to, compress, chunk_events)
    check_writable(output, force=force)
    losses: list[Loss] = []
    opened = read_trace(trace, memory=memory, grants=grants, losses=losses, merge=merge,
                        vmemmap_base=vmemmap_base)
    has_lost = write_trace(
        opened, output, target=target, force=force, compress=compress,
        chunk_events=chunk_events, progress=progress and not quiet)
    if not quiet:
        for note in opened.notes:
            say(f"{trace}: {note}")
    return EXIT_LOSSY if strict and (losses or has_lost) else EXIT_CLEAN
