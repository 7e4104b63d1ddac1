"""The files of a capture that is in several, one a cpu."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from xenm2p.errors import InputError

_CPU_FOLDER = re.compile(r"cpu(\d{1,5})")
_CPU_FILE = re.compile(r".*cpu[-_.]?(\d{1,5})(?!\d).*", re.IGNORECASE | re.DOTALL)


def parts_of(name: str) -> list[str]:
    """The files of a directory that are one cpu's each, by the number of the cpu.

    These are ``per_cpu/cpuN/trace`` or ``cpuN/trace``, as tracefs has them, or files with
    ``cpuN`` in their names. A name that is no directory's is its own only part.
    Raises InputError for a directory without such files, or with several of one cpu.
    """
    folder = Path(name)
    try:
        if name == "-" or not folder.is_dir():
            return [name]
        found = (_cpu_folders(folder / "per_cpu") or _cpu_folders(folder) or _cpu_files(folder))
    except ValueError:  # a NUL byte: opening it will say so
        return [name]
    except OSError as error:
        raise InputError(error.strerror or str(error), source=name) from None
    if not found:
        raise InputError("is a directory without files of single cpus (cpu0/trace, "
                         "trace.cpu0.txt and the like)", source=name)
    numbers = sorted(found)
    for (cpu, path), (next_cpu, next_path) in pairwise(numbers):
        if cpu == next_cpu:
            raise InputError(f"has two files of cpu {cpu}: {path.name} and {next_path.name}",
                             source=name)
    return [str(path) for _, path in numbers]


def all_parts(names: Sequence[str]) -> list[str]:
    """The parts of several files or directories, in their order."""
    return [part for name in names for part in parts_of(name)]


def _cpu_folders(folder: Path) -> list[tuple[int, Path]]:
    # Not trace_pipe: to read that takes the events out of the buffer, and waits for more.
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _CPU_FOLDER.fullmatch(path.name)
        if match is not None and (path / "trace").is_file():
            found.append((int(match[1]), path / "trace"))
    return found


def _cpu_files(folder: Path) -> list[tuple[int, Path]]:
    matches = [(path, _CPU_FILE.fullmatch(path.name)) for path in folder.iterdir()
               if not path.name.startswith(".") and path.is_file()]
    return [(int(match[1]), path) for path, match in matches if match is not None]
