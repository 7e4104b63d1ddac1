"""How fast ftrace text is read: MB of text a second of processor time, by capture.

    python tests/benchmarks/bench_ftrace.py [MEGABYTES [CAPTURE...]]

Every capture is repeated until it has as many megabytes; decompression is not counted.
"""

from __future__ import annotations

import io
import lzma
import resource
import sys
import time
from pathlib import Path

from xenm2p.formats.ftrace import read_ftrace

CAPTURES = Path(__file__).parent.parent / "data" / "captures"


def measure(capture: Path, megabytes: int) -> str:
    """One line of the table: text, events and speed of one capture."""
    text = lzma.decompress(capture.read_bytes())
    text *= max(1, megabytes * 10**6 // len(text))
    begin = time.process_time()
    trace = read_ftrace(io.BytesIO(text), capture.name)
    seconds = time.process_time() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    name = capture.name.removesuffix(".txt.xz")
    return (f"{name:32} {len(text) / 1e6:7.1f} MB {trace.length or 0:9} events "
            f"{len(text) / 1e6 / seconds:6.0f} MB/s {peak:5} MiB")


def main(arguments: list[str]) -> None:
    """Measure the captures named, or all."""
    megabytes = int(arguments[0]) if arguments else 50
    for capture in sorted(CAPTURES.glob("*.txt.xz")):
        name = capture.name.removesuffix(".txt.xz")
        if not name.endswith(".p2m") and (len(arguments) < 2 or name in arguments[1:]):
            print(measure(capture, megabytes))


if __name__ == "__main__":
    main(sys.argv[1:])
