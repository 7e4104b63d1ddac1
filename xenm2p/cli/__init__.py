"""The command line: one file a command, `options` holds what they share, `app` runs them."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point of the `xenm2p` program."""
    # numpy's linear algebra, which nothing here uses, would start a thread a processor.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from xenm2p.cli.app import cli
    except KeyboardInterrupt:  # the imports take a tenth of a second
        sys.exit(130)
    cli(prog_name="xenm2p")
