"""Writing a trace to a file in the format asked for: `convert` and `generate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import click

from xenm2p.cli import options
from xenm2p.cli.output import STDOUT, binary_output
from xenm2p.cli.progress import with_progress
from xenm2p.errors import UsageError, nearest

if TYPE_CHECKING:
    from xenm2p.trace import Events, Trace

FORMATS = ("yaml", "xm2p")
EXTENSIONS = {".yaml": "yaml", ".yml": "yaml", ".xm2p": "xm2p"}
COMPRESSIONS = ("none", "zlib", "zstd")


def writing_options(command: Any) -> Any:
    """-o, --force, --to, --compress, --chunk-events."""
    for option in reversed((
        click.option("-o", "--output", metavar="FILE", required=True,
                     shell_complete=options.complete_file,
                     help="Write to FILE, whole or not at all; - is standard output."),
        click.option("--force", is_flag=True, help="Overwrite FILE if it exists."),
        click.option("--to", metavar="FORMAT", **options.one_of("format", FORMATS),
                     help="yaml or xm2p. Default: what FILE's extension says."),
        click.option("--compress", metavar="METHOD", default=None,
                     **options.one_of("compression", COMPRESSIONS),
                     help="Compress an .xm2p file's columns: zlib, zstd (needs the zstandard "
                          "package) or none (default), which is the quickest to read."),
        click.option("--chunk-events", metavar="N", type=click.IntRange(1, 1 << 20),
                     help="Events in one chunk of an .xm2p file."),
    )):
        command = option(command)
    return command


def check_target(output: str, to: str | None, compress: str | None,
                 chunk_events: int | None) -> str:
    """The format to write. Raises UsageError for what does not go together."""
    suffix = PurePath(output).suffix
    target = to or EXTENSIONS.get(suffix)
    if target is None:
        if output == STDOUT:
            raise UsageError("standard output needs --to yaml or --to xm2p")
        hint = nearest(suffix, EXTENSIONS)
        raise UsageError(f"{output}: the extension says no format{hint}; give --to yaml or "
                         "--to xm2p")
    for flag, value in (("--compress", compress), ("--chunk-events", chunk_events)):
        if target != "xm2p" and value is not None:
            raise UsageError(f"{flag} is of .xm2p files only, and this writes {target}")
    return target


def write_trace(
    trace: Trace, output: str, *, target: str, force: bool, compress: str | None,
    chunk_events: int | None, progress: bool,
) -> bool:
    """Write a trace, with a progress bar where `progress` wants one and there is a terminal.

    Returns whether the trace says that the tracer lost events. Raises OutputError, and
    what reading the trace raises.
    """
    from xenm2p.trace import Kind

    chunks_of = trace.chunks_of
    has_lost = False

    def watched() -> Iterator[Events]:
        nonlocal has_lost
        for events in with_progress(iter(chunks_of()), len, trace.length, wanted=progress):
            has_lost = has_lost or bool((events.kind == Kind.LOST).any())
            yield events

    trace.chunks_of = watched
    with binary_output(output, force=force) as file:
        if target == "yaml":
            from xenm2p.formats.yaml_write import write_yaml

            write_yaml(trace, file)
        else:
            from xenm2p.formats.binary import DEFAULT_CHUNK_EVENTS, write_binary

            write_binary(trace, file, compression=None if compress == "none" else compress,
                         chunk_events=chunk_events or DEFAULT_CHUNK_EVENTS)
    return has_lost
