"""Every error a user can meet: file, place, reason, nearest known name, exit status.

An error is one line: ``capture.txt:214: map_op 3: 'mfn' is missing (have pfn, ref)``.
The command line prints it after ``xenm2p: `` and exits with `exit_code`; no other
room prints or exits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_CLEAN = 0
EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_UNREADABLE = 3
EXIT_LOSSY = 4
EXIT_INTERRUPTED = 130


class XenM2PError(Exception):
    """Base of all errors that are the input's or the user's, never the program's."""

    exit_code = EXIT_UNREADABLE


class UsageError(XenM2PError):
    """An option or argument that cannot be honoured."""

    exit_code = EXIT_USAGE


class InputError(XenM2PError):
    """Input that cannot be read or does not mean anything.

    `source` is the name the user gave (``-`` for standard input), `place` a line
    number, ``byte N`` or None, `reason` the rest of the sentence.
    """

    def __init__(self, reason: str, *, source: str | None = None, place: int | str | None = None):
        self.reason = reason
        self.source = source
        self.place = place
        super().__init__(reason)

    def __str__(self) -> str:
        parts = [str(part) for part in (self.source, self.place) if part is not None]
        return ":".join(parts) + (": " if parts else "") + self.reason


class OutputError(XenM2PError):
    """Output that cannot be written: the file exists, the disk is full, no permission."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known name nearest to `name`, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{found[0]}'?)" if found else ""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that is not among `known`: nearest match, or all of them."""
    known = list(known)
    hint = nearest(name, known) or f" (known: {', '.join(known)})"
    return f"unknown {what} '{name}'{hint}"
