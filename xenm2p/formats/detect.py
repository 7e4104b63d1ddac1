"""Which format a file has, by its content; one table of formats, one way to read a trace."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from xenm2p.errors import InputError, nearest
from xenm2p.formats.parts import all_parts
from xenm2p.formats.streams import BinaryInput, open_input
from xenm2p.formats.yaml_schema import SCALARS, SECTIONS
from xenm2p.trace import Runs, Trace

if TYPE_CHECKING:
    from xenm2p.formats.binary_reader import Loss
    from xenm2p.formats.grantdump import GrantDump

BINARY_MAGIC = b"xenm2p\r\n"

Losses = list["Loss"]


@dataclass(frozen=True, slots=True)
class Extra:
    """What a reader gets beside its input: what dumps tell, and a list for losses.

    `memory`: rows of a p2m dump. `grants`: a grant-table dump; `read_known` adds it.
    `again`: the trace will be read more than once, from whatever input. `salvage`: damaged
    parts are left out and told in `losses` where the format can do so. `vmemmap_base`:
    where the struct pages of a captured kernel begin.
    """

    memory: Runs | None
    losses: Losses
    again: bool = False
    salvage: bool = False
    grants: GrantDump | None = None
    vmemmap_base: int | None = None


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A format that traces are read from: its name, how to know it, how to read it."""

    name: str
    looks: str  # what was looked for, for the message when nothing was found
    sniff: Callable[[bytes], bool]
    read: Callable[[BinaryInput, Extra], Trace]
    # Several files that are one capture, where the format may be in such.
    read_parts: Callable[[list[BinaryInput], Extra], Trace] | None = None


def _is_binary(first: bytes) -> bool:
    return first.startswith(BINARY_MAGIC)


def _read_binary(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.binary import read_binary

    def read(source: BinaryIO | str | Path) -> Trace:
        return read_binary(source, opened.name, losses=extra.losses, salvage=extra.salvage)

    if opened.path is not None:
        opened.stream.close()
        trace = read(opened.path)
    elif extra.again or extra.grants is not None:
        with tempfile.NamedTemporaryFile(prefix="xenm2p.") as copy:
            with opened:
                shutil.copyfileobj(opened.stream, copy, 1 << 20)
            copy.flush()
            # The file is mapped: it may lose its name, it stays until the trace is gone.
            trace = read(copy.name)
    else:
        trace = read(opened.stream)
    return _with_memory(trace, extra)


def _is_tracedat(first: bytes) -> bool:
    from xenm2p.formats.tracedat import looks_like_tracedat

    return looks_like_tracedat(first)


def _read_tracedat(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.tracedat import read_tracedat

    with opened:
        return read_tracedat(opened.path or opened.stream, opened.name, memory=extra.memory,
                             vmemmap_base=extra.vmemmap_base, losses=extra.losses)


def _is_ftrace(first: bytes) -> bool:
    from xenm2p.formats.ftrace import looks_like_ftrace

    return looks_like_ftrace(first)


def _read_ftrace(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.ftrace import read_ftrace

    return read_ftrace(opened.stream, opened.name, memory=extra.memory,
                       vmemmap_base=extra.vmemmap_base)


def _read_ftrace_parts(opened: list[BinaryInput], extra: Extra) -> Trace:
    from xenm2p.formats.ftrace import read_ftrace_parts

    return read_ftrace_parts([(part.stream, part.name) for part in opened],
                             memory=extra.memory, vmemmap_base=extra.vmemmap_base)


def _is_perf(first: bytes) -> bool:
    from xenm2p.formats.ftrace import looks_like_perf

    return looks_like_perf(first)


def _is_bpftrace(first: bytes) -> bool:
    from xenm2p.formats.bpftrace import looks_like_bpftrace

    return looks_like_bpftrace(first)


def _read_bpftrace(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.bpftrace import read_bpftrace

    return read_bpftrace(opened.stream, opened.name, memory=extra.memory,
                         vmemmap_base=extra.vmemmap_base)


def _read_perf(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.ftrace import read_ftrace
    from xenm2p.formats.ftrace_layouts import PERF

    return read_ftrace(opened.stream, opened.name, form=PERF, memory=extra.memory,
                       vmemmap_base=extra.vmemmap_base)


def _read_perf_parts(opened: list[BinaryInput], extra: Extra) -> Trace:
    from xenm2p.formats.ftrace import read_ftrace_parts
    from xenm2p.formats.ftrace_layouts import PERF

    return read_ftrace_parts([(part.stream, part.name) for part in opened], form=PERF,
                             memory=extra.memory, vmemmap_base=extra.vmemmap_base)


_KEY = re.compile(rb"[ {]*[\"']?([A-Za-z0-9_-]{1,32})[\"']?[ \t]*:(?:\s|$)")


def _is_yaml(first: bytes) -> bool:
    """The first line that is no comment, blank or document start has a key of a trace."""
    for line in first.removeprefix(b"\xef\xbb\xbf").splitlines():
        text = line.strip()
        if not text or text[:1] in (b"#", b"%") or text == b"---":
            continue
        match = _KEY.match(line.removeprefix(b"--- "))
        # A misspelt key is the YAML reader's to complain of.
        return match is not None and bool(nearest(match[1].decode(), SCALARS + SECTIONS))
    return False


def _read_yaml(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.yaml import read_yaml

    with opened:
        return _with_memory(read_yaml(opened.stream, opened.name), extra)


def _with_memory(trace: Trace, extra: Extra) -> Trace:
    """The trace with a dump's rows before its own, but for shares whose frames it tells."""
    if extra.memory is not None:
        from xenm2p.formats.capture_sight import MEMORY, now_seen
        from xenm2p.formats.ftrace_events import UNKNOWN_FRAME, known_in

        own = trace.memory
        is_told = (own.value == np.uint64(UNKNOWN_FRAME)) & known_in(extra.memory, own.start)[0]
        own = Runs(own.start[~is_told], own.value[~is_told], own.count[~is_told])
        trace.memory = _before(extra.memory, own)
        trace.resume = None  # its checkpoints are made for the memory that the file has
        trace.notes = now_seen(trace.notes, MEMORY)
    return trace


FORMATS: tuple[TraceFormat, ...] = (
    TraceFormat("xm2p", "a binary trace's first bytes 'xenm2p'", _is_binary, _read_binary),
    TraceFormat("trace.dat", "trace-cmd's first bytes '\\x17\\x08Dtracing'", _is_tracedat,
                _read_tracedat),
    TraceFormat("bpftrace", "bpftrace's JSON lines", _is_bpftrace, _read_bpftrace),
    TraceFormat("yaml", "a YAML trace's 'format: xenm2p-trace'", _is_yaml, _read_yaml),
    TraceFormat("ftrace", "ftrace text's header or event lines", _is_ftrace, _read_ftrace,
                _read_ftrace_parts),
    TraceFormat("perf", "perf script's event lines", _is_perf, _read_perf, _read_perf_parts),
)

# Files that people will try, and what to do with them instead.
_HINTS: tuple[tuple[bytes, str], ...] = (
    (b"PERFILE2", "this is a perf.data; give the output of `perf script`"),
    (b'{"schema":', "this is a saved replay; xenm2p diff compares it"),
    (b"# Linux p2m", "this is a p2m dump; give it with --memory, beside the trace"),
    (b"\x03\xf0\x01 ", "this is a file of xentrace, whose grant records name no page and no "
                       "frame; compare a trace with it: `xenm2p check TRACE --against FILE`"),
)
_GRANT_DUMP_HINT = ("this is a grant-table dump (xl debug-keys g); give it with --grants, beside "
                    "the trace, or compare: `xenm2p check TRACE --against FILE`")


def format_of(first: bytes) -> TraceFormat | None:
    """The format of a file that begins with `first`, None for none that is known."""
    return next((each for each in FORMATS if each.sniff(first)), None)


def read_trace(
    name: str, *, memory: str | None = None, grants: str | None = None,
    losses: Losses | None = None, again: bool = False, merge: Sequence[str] = (),
    vmemmap_base: int | None = None,
) -> Trace:
    """The trace in a file of any known format, found by its content; ``-`` is standard input.

    `memory` names a p2m dump, whose rows come before the trace's own; `grants` a
    grant-table dump, whose shares become the first events. What a file that ends early has
    lost is appended to `losses` while the trace is iterated. With `again` the trace can be
    iterated any number of times: what is a stream is copied to a temporary file, which
    nobody else sees and which goes with the program.
    `merge` names more files of the same capture; a directory stands for the files of
    single cpus in it. They are merged by time. `vmemmap_base` is where the struct pages of
    a captured kernel begin, in place of what the capture says or shows.
    Raises InputError for what cannot be read or has no known format; where a format is
    read piece by piece, also later, while the trace is iterated.
    """
    extra = Extra(None if memory is None else read_memory(memory),
                  [] if losses is None else losses, again,
                  grants=None if grants is None else read_grants(grants),
                  vmemmap_base=vmemmap_base)
    return read_known((name, *merge), extra).trace


@dataclass(frozen=True, slots=True)
class Known:
    """A trace, its format, and its file where that is a single one that can be mapped."""

    trace: Trace
    format: TraceFormat
    path: Path | None


def read_known(names: Sequence[str], extra: Extra) -> Known:
    """The trace in a file, or in several files or directories that are one capture."""
    opened: list[BinaryInput] = []
    try:
        for name in all_parts(names):
            opened.append(open_input(name))
        if len(opened) == 1:
            found = known_format(opened[0])
            return Known(_begun(found.read(opened[0], extra), extra), found, opened[0].path)
        found, read_parts = _format_of_parts(opened)
        with_events = [part for part in opened if part.first]  # a cpu may have had none
        return Known(_begun(read_parts(with_events, extra), extra), found, None)
    except BaseException:
        for part in opened:
            part.stream.close()
        raise


def _format_of_parts(opened: list[BinaryInput]) -> tuple[
        TraceFormat, Callable[[list[BinaryInput], Extra], Trace]]:
    found: TraceFormat | None = None
    for part in opened:
        if not part.first:
            continue
        format_ = known_format(part)
        if format_.read_parts is None:
            raise InputError(f"is {format_.name}, which is not merged with other files: only "
                             "text of ftrace and perf script is", source=part.name)
        if found is not None and format_ is not found:
            raise InputError(f"is {format_.name} and {opened[0].name} is {found.name}: only "
                             "files of one format are merged", source=part.name)
        found = format_
    if found is None or found.read_parts is None:
        raise InputError("the file is empty", source=opened[0].name)
    return found, found.read_parts


def known_format(opened: BinaryInput) -> TraceFormat:
    """The format of an opened input. Raises InputError, saying what was looked for."""
    first = opened.first
    if not first:
        raise InputError("the file is empty", source=opened.name)
    found = format_of(first)
    if found is not None:
        return found
    for magic, hint in _HINTS:
        if first.startswith(magic):
            raise InputError(hint, source=opened.name)
    if _is_ring_buffer(first):
        raise InputError("this may be trace_pipe_raw, pages of the ring buffer itself; give "
                         "trace or trace_pipe, or record with trace-cmd and give trace.dat",
                         source=opened.name)
    from xenm2p.formats.grantdump import looks_like_grant_dump

    if looks_like_grant_dump(first):
        raise InputError(_GRANT_DUMP_HINT, source=opened.name)
    looked_for = ", ".join(each.looks for each in FORMATS)
    raise InputError(f"unknown format: it begins with {ascii(first[:16])[1:]}; looked for "
                     f"{looked_for}", source=opened.name)


def _is_ring_buffer(first: bytes) -> bool:
    """Whether a page of the kernel's trace ring buffer may stand at the begin.

    kernel/trace/ring_buffer.c: struct buffer_data_page: a time stamp, and how many bytes of
    the page's events are committed; flags above that tell of missed events. An event is at
    least a word, and its first word has a type or a length of at least one word below.
    """
    if len(first) < 20:
        return False
    committed = int.from_bytes(first[8:16], "little")
    in_page = committed & ~(3 << 30)
    return 8 <= in_page <= 4080 and in_page % 4 == 0 and int.from_bytes(
        first[:8], "little") > 0 and b"\0" in first[:8]


def read_memory(name: str) -> Runs:
    """The p2m rows of a dump. Raises InputError."""
    from xenm2p.formats.p2mdump import read_p2m_dump

    with open_input(name) as opened:
        return read_p2m_dump(opened.stream, name)


def read_grants(name: str) -> GrantDump:
    """The entries of a grant-table dump. Raises InputError."""
    from xenm2p.formats.grantdump import read_grant_dump

    with open_input(name) as opened:
        return read_grant_dump(opened.stream, name)


def _begun(trace: Trace, extra: Extra) -> Trace:
    """The trace, with what a grant dump has live before it as its first events."""
    if extra.grants is None:
        return trace
    from xenm2p.formats.initial_grants import with_initial_grants

    return with_initial_grants(trace, extra.grants)


def _before(first: Runs, then: Runs) -> Runs:
    return Runs(
        np.concatenate([first.start, then.start]),
        np.concatenate([first.value, then.value]),
        np.concatenate([first.count, then.count]),
    )
