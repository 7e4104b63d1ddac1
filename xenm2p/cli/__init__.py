"""The command line: one file a command, `options` holds what they share, `app` runs them."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `xenm2p` program."""
    from xenm2p.cli.app import cli

    cli(prog_name="xenm2p")
