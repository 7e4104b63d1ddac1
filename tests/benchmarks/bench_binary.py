"""Rates and sizes of the binary trace format, beside numpy's own container.

Events per second of writing and reading, bytes an event, and the highest memory of the
process up to then. Reading looks at every column once, as an engine would.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from xenm2p.errors import UsageError
from xenm2p.formats.binary import BinaryReader, read_binary, resume_point, write_binary
from xenm2p.formats.workloads import generate
from xenm2p.trace import COLUMNS, Events, Trace


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def touch(trace: Trace) -> int:
    """Read every value of every column."""
    return sum(int(column.max()) & 1 for events in trace.chunks()
               for column in events.columns().values())


def row_of(what: str, path: Path, events: int, write: float, read: float) -> dict[str, str]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {
        "way": what, "write Mevents/s": f"{events / write / 1e6:.1f}",
        "read Mevents/s": f"{events / read / 1e6:.1f}",
        "bytes an event": f"{path.stat().st_size / events:.2f}", "peak MB": str(peak),
    }


def main(arguments: Sequence[str] = ()) -> list[dict[str, str]]:
    """Write and read one workload in every way: a row a way."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks binary")
    parser.add_argument("--events", type=int, default=2_000_000)
    events = parser.parse_args(arguments).events
    rows = []
    made = generate("same-domain", events=events, seed=1, in_flight=256, frames=1 << 16)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.xm2p"
        with source.open("wb") as file:
            write_binary(made, file, checkpoints=False)
        for name, compression, checkpoints in [
            ("plain", None, False), ("plain, checkpoints", None, True),
            ("zlib, checkpoints", "zlib", True), ("zstd, checkpoints", "zstd", True),
        ]:
            path = Path(folder) / f"{compression}-{checkpoints}.xm2p"
            trace = read_binary(source, str(source))

            def write(
                trace: Trace = trace, path: Path = path, compression: str | None = compression,
                checkpoints: bool = checkpoints,
            ) -> None:
                with path.open("wb") as file:
                    write_binary(trace, file, compression=compression, checkpoints=checkpoints)

            try:
                write_time = timed(write)
            except UsageError as missing:
                rows.append({"way": f"{name}: {missing}"})
                continue
            read_time = timed(lambda path=path: touch(read_binary(path, str(path))))
            rows.append(row_of(name, path, events, write_time, read_time))

        some = frozenset({"time", "kind", "pfn", "mfn", "user"})
        seconds = timed(lambda: touch(read_binary(source, str(source), columns=some)))
        rows.append({"way": "plain, five columns",
                     "read Mevents/s": f"{events / seconds / 1e6:.1f}"})
        marked = Path(folder) / "None-True.xm2p"
        seconds = timed(lambda: resume_point(BinaryReader(marked, str(marked)), events - 1))
        rows.append({"way": f"open and resume at the end: {seconds * 1e3:.1f} ms"})

        # The peer holds all events in memory; it is the rate and the size that compare.
        whole = read_binary(source, str(source)).events()
        for name, save in [("np.savez", np.savez), ("np.savez_compressed",
                                                    np.savez_compressed)]:
            path = Path(folder) / f"{name}.npz"
            write_time = timed(lambda save=save, path=path: save(path, **whole.columns()))

            def read(path: Path = path) -> None:
                with np.load(path) as columns:
                    touch(Trace.of_events(Events(**{c: columns[c] for c in COLUMNS})))

            rows.append(row_of(name, path, events, write_time, timed(read)))
    return rows
