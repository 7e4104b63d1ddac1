"""Which format a file has, by its content; one table of formats, one way to read a trace."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from xenm2p.errors import InputError, nearest
from xenm2p.formats.streams import BinaryInput, open_input
from xenm2p.formats.yaml_schema import SCALARS, SECTIONS
from xenm2p.trace import Runs, Trace

if TYPE_CHECKING:
    from xenm2p.formats.binary_reader import Loss

BINARY_MAGIC = b"xenm2p\r\n"

Losses = list["Loss"]


@dataclass(frozen=True, slots=True)
class Extra:
    """What a reader gets beside its input: a dump's p2m rows, and a list for losses.

    `again`: the trace will be read more than once, from whatever input. `salvage`: damaged
    parts are left out and told in `losses` where the format can do so.
    """

    memory: Runs | None
    losses: Losses
    again: bool = False
    salvage: bool = False


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """A format that traces are read from: its name, how to know it, how to read it."""

    name: str
    looks: str  # what was looked for, for the message when nothing was found
    sniff: Callable[[bytes], bool]
    read: Callable[[BinaryInput, Extra], Trace]


def _is_binary(first: bytes) -> bool:
    return first.startswith(BINARY_MAGIC)


def _read_binary(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.binary import read_binary

    def read(source: BinaryIO | str | Path) -> Trace:
        return read_binary(source, opened.name, losses=extra.losses, salvage=extra.salvage)

    if opened.path is not None:
        opened.stream.close()
        trace = read(opened.path)
    elif extra.again:
        with tempfile.NamedTemporaryFile(prefix="xenm2p.") as copy:
            with opened:
                shutil.copyfileobj(opened.stream, copy, 1 << 20)
            copy.flush()
            # The file is mapped: it may lose its name, it stays until the trace is gone.
            trace = read(copy.name)
    else:
        trace = read(opened.stream)
    return _with_memory(trace, extra)


def _is_ftrace(first: bytes) -> bool:
    from xenm2p.formats.ftrace import looks_like_ftrace

    return looks_like_ftrace(first)


def _read_ftrace(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.ftrace import read_ftrace

    return read_ftrace(opened.stream, opened.name, memory=extra.memory)


def _is_perf(first: bytes) -> bool:
    from xenm2p.formats.ftrace import looks_like_perf

    return looks_like_perf(first)


def _read_perf(opened: BinaryInput, extra: Extra) -> Trace:
    from xenm2p.formats.ftrace import read_ftrace
    from xenm2p.formats.ftrace_layouts import PERF

    return read_ftrace(opened.stream, opened.name, form=PERF, memory=extra.memory)


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
    if extra.memory is not None:
        trace.memory = _before(extra.memory, trace.memory)
    return trace


FORMATS: tuple[TraceFormat, ...] = (
    TraceFormat("xm2p", "a binary trace's first bytes 'xenm2p'", _is_binary, _read_binary),
    TraceFormat("yaml", "a YAML trace's 'format: xenm2p-trace'", _is_yaml, _read_yaml),
    TraceFormat("ftrace", "ftrace text's header or event lines", _is_ftrace, _read_ftrace),
    TraceFormat("perf", "perf script's event lines", _is_perf, _read_perf),
)

# Files that people will try, and what to do with them instead.
_HINTS: tuple[tuple[bytes, str], ...] = (
    (b"\x17\x08Dtracing", "this is a trace-cmd trace.dat; give the output of "
                          "`trace-cmd report -R`"),
    (b"PERFILE2", "this is a perf.data; give the output of `perf script`"),
    (b"# Linux p2m", "this is a p2m dump; give it with --memory, beside the trace"),
)


def format_of(first: bytes) -> TraceFormat | None:
    """The format of a file that begins with `first`, None for none that is known."""
    return next((each for each in FORMATS if each.sniff(first)), None)


def read_trace(
    name: str, *, memory: str | None = None, losses: Losses | None = None,
    again: bool = False,
) -> Trace:
    """The trace in a file of any known format, found by its content; ``-`` is standard input.

    `memory` names a p2m dump, whose rows come before the trace's own. What a file that
    ends early has lost is appended to `losses` while the trace is iterated. With `again`
    the trace can be iterated any number of times: what is a stream is copied to a
    temporary file, which nobody else sees and which goes with the program.
    Raises InputError for what cannot be read or has no known format; where a format is
    read piece by piece, also later, while the trace is iterated.
    """
    extra = Extra(None if memory is None else read_memory(memory),
                  [] if losses is None else losses, again)
    opened = open_input(name)
    try:
        return known_format(opened).read(opened, extra)
    except BaseException:
        opened.stream.close()
        raise


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
    looked_for = ", ".join(each.looks for each in FORMATS)
    raise InputError(f"unknown format: it begins with {ascii(first[:16])[1:]}; looked for "
                     f"{looked_for}", source=opened.name)


def read_memory(name: str) -> Runs:
    """The p2m rows of a dump. Raises InputError."""
    from xenm2p.formats.p2mdump import read_p2m_dump

    with open_input(name) as opened:
        return read_p2m_dump(opened.stream, name)


def _before(first: Runs, then: Runs) -> Runs:
    return Runs(
        np.concatenate([first.start, then.start]),
        np.concatenate([first.value, then.value]),
        np.concatenate([first.count, then.count]),
    )
