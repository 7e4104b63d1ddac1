"""YAML traces, version 1: the hand-written and the archival form."""

from __future__ import annotations

import io
from typing import IO

from xenm2p.errors import InputError
from xenm2p.formats.yaml_rows import Document
from xenm2p.formats.yaml_strict import BoundedText, StrictParser
from xenm2p.formats.yaml_write import write_yaml
from xenm2p.trace import Trace

__all__ = ["read_yaml", "read_yaml_strictly", "write_yaml"]


def read_yaml_strictly(stream: IO[bytes] | bytes, source: str) -> Trace:
    """The trace, by the strict parser alone: what `read_yaml` must equal."""
    text = io.BytesIO(stream) if isinstance(stream, bytes) else stream
    document = Document(source)
    StrictParser(document, BoundedText(b"", text)).parse()
    return trace_of(document)


read_yaml = read_yaml_strictly


def trace_of(document: Document) -> Trace:
    """The trace that a wholly read document gives. Raises InputError where a key is missing."""
    for key in ("format", "version", "events"):
        if key not in document.seen:
            raise InputError(f"not a trace: '{key}' is missing", source=document.source)
    pieces = document.event_pieces()
    scalars = document.scalars
    kernel = scalars.get("kernel")
    return Trace(
        chunks_of=lambda: iter(pieces),
        kernel=None if kernel is None else str(kernel),
        domain=int(scalars.get("domain", 0)),
        origin=str(scalars.get("origin", "")),
        memory=document.runs("memory"),
        m2p=document.runs("m2p"),
        tasks=document.tasks.names,
        length=document.events.length,
    )
