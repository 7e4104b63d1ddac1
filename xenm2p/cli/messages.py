"""What the program says on standard error: always one line, always with its name."""

from __future__ import annotations

import errno

import click

from xenm2p.report.markup import printable


def say(message: object) -> None:
    """Print one line on standard error; control characters of file names are spelled out."""
    try:
        click.echo(f"xenm2p: {printable(str(message))}", err=True)
    except OSError as error:  # closed, or full: the exit status still tells
        if error.errno not in (errno.EPIPE, errno.EBADF, errno.ENOSPC):
            raise
