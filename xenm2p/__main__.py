"""``python -m xenm2p``."""

from xenm2p.cli import main

main()
