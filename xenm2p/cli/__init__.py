"""The command line: one file a command, `options` holds what they share, `app` runs them."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the `xenm2p` program."""
    try:
        from xenm2p.cli.app import cli
    except KeyboardInterrupt:  # the imports take a tenth of a second
        sys.exit(130)
    cli(prog_name="xenm2p")
