"""trace.dat: millions of records a second, whole reading and records alone.

    python -m tests.benchmarks tracedat [--repeat N]

The pages of captures are repeated, their times going on, in an uncompressed file of
version 6. A third of the first capture's calls has arrays; the second's have scalars.
Memory is what the reading process has at its peak, the file that is mapped with it.
"""

from __future__ import annotations

import argparse
import lzma
import multiprocessing
import resource
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from xenm2p.formats.tracedat import read_tracedat
from xenm2p.formats.tracedat_formats import Symbols, formats_of
from xenm2p.formats.tracedat_layout import read_layout
from xenm2p.formats.tracedat_records import RecordReader

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
NAMES = ("tcmd-phy-nopersist-begin", "tcmd-phy-scalar")
_SPAN = 10**10  # nanoseconds, longer than any of them


def _sized(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def repeated(data: bytes, times: int) -> bytes:
    """A file of version 6 with the pages of another, again and again."""
    layout = read_layout(memoryview(data), "capture")
    reader = RecordReader(memoryview(data), layout, formats_of(layout), Symbols([], []))
    cpus = [np.concatenate([pages for pages, _ in reader.pages(part)]) for part in layout.cpus]
    formats = [text for _, text in layout.formats]
    out = b"\x17\x08Dtracing6\0" + bytes([0, 8]) + struct.pack("<I", layout.page_size)
    out += b"header_page\0" + _sized(layout.header_page) + b"header_event\0" + _sized(b"")
    out += struct.pack("<II", 0, 1) + b"all\0" + struct.pack("<I", len(formats))
    out += b"".join(map(_sized, formats)) + struct.pack("<II", 0, 0) + _sized(layout.cmdlines)
    out += struct.pack("<I", len(cpus)) + b"flyrecord\0"
    begin = -(-(len(out) + 16 * len(cpus)) // layout.page_size) * layout.page_size
    at, parts = begin, []
    for pages in cpus:
        out += struct.pack("<QQ", at, times * pages.size)
        at += times * pages.size
        for turn in range(times):
            later = pages.copy()
            later[:, :8].view("<u8")[...] += np.uint64(turn * _SPAN)
            parts.append(later.tobytes())
    return out.ljust(begin, b"\0") + b"".join(parts)


def _measured(path: str) -> tuple[int, int, float, float, int]:
    """Records, events, seconds of the whole and of the records alone, memory in MiB."""
    began = time.process_time()
    trace = read_tracedat(Path(path), path)
    whole = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    data = memoryview(Path(path).read_bytes())
    layout = read_layout(data, path)
    reader = RecordReader(data, layout, formats_of(layout), Symbols.of(layout.kallsyms))
    began = time.process_time()
    records = sum(len(reader.read(part).time) for part in layout.cpus)
    return records, len(trace.events()), whole, time.process_time() - began, peak


def main(arguments: list[str]) -> list[dict[str, Any]]:
    """One row a capture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeat", type=int, default=100)
    times = parser.parse_args(arguments).repeat
    rows = []
    for name in NAMES:
        data = lzma.decompress((CAPTURES / f"{name}.dat.xz").read_bytes())
        with tempfile.NamedTemporaryFile() as file:
            file.write(repeated(data, times))
            file.flush()
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                records, events, whole, alone, peak = pool.apply(_measured, (file.name,))
            size = Path(file.name).stat().st_size
        rows.append({
            "capture": name, "records": records, "events": events, "MB": size // 10**6,
            "M records/s": f"{records / whole / 1e6:.2f}",
            "records alone": f"{records / alone / 1e6:.2f}", "MiB": peak})
    return rows
