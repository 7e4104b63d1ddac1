"""Where a command writes: standard output, or a file written whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from xenm2p.errors import OutputError, UsageError

STDOUT = "-"
BUFFER = 1 << 20


@contextmanager
def binary_output(name: str, *, force: bool) -> Iterator[BinaryIO]:
    """A file to write bytes to, which becomes `name` when the block ends without an error.

    It is written beside `name` and then renamed: whoever reads `name` sees the old file
    or the whole new one, whenever the program is killed. An existing file is refused
    without `force`. Devices and pipes are written in place. Raises OutputError.
    """
    if name == STDOUT:
        if sys.stdout is None:
            raise OutputError("standard output is closed")
        stdout: BinaryIO = sys.stdout.buffer
        yield stdout
        stdout.flush()
        return
    target = Path(os.path.realpath(name))  # a link stays, its target is replaced
    check_writable(name, force=force)
    try:
        if target.exists() and not target.is_file():
            with target.open("wb", buffering=BUFFER) as device:
                yield device
            return
        with _beside(target, force) as file:
            yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _cannot_write(name, error) from error


@contextmanager
def text_output(name: str, *, force: bool) -> Iterator[TextIO]:
    """As `binary_output`, for UTF-8 text with Unix line ends."""
    with binary_output(name, force=force) as file:
        text = io.TextIOWrapper(
            file, encoding="utf-8", errors="backslashreplace", newline="\n")
        try:
            yield text
            text.flush()
        finally:
            with suppress(OSError, ValueError):  # the flush above has told
                text.detach()  # the file below is not this wrapper's to close


def check_writable(name: str, *, force: bool) -> None:
    """Refuse an output before any work is done for it: UsageError, OutputError."""
    if name == STDOUT:
        return
    path = Path(name)
    try:
        if path.is_dir():
            raise OutputError(f"{name}: is a directory")
        if path.is_file() and not force:
            raise UsageError(f"{name}: the file exists; --force overwrites it")
        if not Path(os.path.realpath(name)).parent.is_dir():
            raise OutputError(f"{name}: no such directory")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise OutputError(f"{name!r}: {error}") from error


@contextmanager
def _beside(target: Path, force: bool) -> Iterator[BinaryIO]:
    """A temporary file in the target's directory, moved over it at the end."""
    descriptor, name = tempfile.mkstemp(
        prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb", buffering=BUFFER) as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), _mode_for(target))
            os.fsync(file.fileno())
        if force:
            temporary.replace(target)
        else:
            _move_to_free_name(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _move_to_free_name(temporary: Path, target: Path) -> None:
    """Rename that fails where `target` has come to exist meanwhile: link, then unlink."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        temporary.replace(target)
    else:
        temporary.unlink()


def _mode_for(target: Path) -> int:
    """The mode of the file that is replaced, or that of a new file."""
    if target.exists():
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _cannot_write(name: str, error: OSError) -> OutputError:
    return OutputError(f"{name}: cannot write: {error.strerror or error}")
