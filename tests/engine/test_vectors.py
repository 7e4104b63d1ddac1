"""The conformance vectors: what the kernels' own C functions did, line by line.

tests/data/vectors.tar.xz holds traces (NAME.yaml) and, for each of four kernels, what its
functions did with them (NAME.MODEL.jsonl, one line an event; tests/data/vectors.md).
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.engine.outcome import Outcome, rows_of
from xenm2p.engine import reference, vector
from xenm2p.engine.replay import WARNING_NAMES, Result
from xenm2p.formats.yaml import read_yaml
from xenm2p.kernels import MODELS
from xenm2p.trace import INVALID, Trace, format_frame

ARCHIVE = Path(__file__).parent.parent / "data" / "vectors.tar.xz"
# Which kernel's C functions speak for a model: all calls in the vectors are of one page, so
# that a failing page never has a call to stop or to go on with.
SPOKEN_FOR_BY = {name: name for name in MODELS} | {"p2m-only-continue": "p2m-only"}
RETURNED = {Result.OK: 0, Result.EINVAL: -22, Result.SKIP_LIST: "skip",
            Result.SKIP_KMAP: "skip", Result.ABORTED: "aborted"}
CORRUPTED = {Result.SKIP_LIST: "list", Result.SKIP_KMAP: "kmap"}

Line = dict[str, Any]


@cache
def files() -> dict[str, bytes]:
    """The archive's files by name."""
    with tarfile.open(ARCHIVE) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


NAMES = sorted(name.removesuffix(".yaml") for name in files() if name.endswith(".yaml"))
CORNER_CASES = [name for name in NAMES if not name.startswith("case")]


@cache
def trace_named(name: str) -> Trace:
    return read_yaml(files()[f"{name}.yaml"], f"{name}.yaml")


@cache
def expected_lines(name: str, model: str) -> list[Line]:
    return [json.loads(line) for line in files()[f"{name}.{model}.jsonl"].splitlines()]


def lines_of(outcome: Outcome) -> list[Line]:
    """A replay in the words of the vectors, one line an event."""
    changes = defaultdict(list)
    for event, *frames, _ in rows_of(outcome.transitions):
        changes[event].append([format_frame(frame) for frame in frames])
    resolved = dict(zip(outcome.resolutions.event.tolist(),
                        outcome.resolutions.resolved.tolist(), strict=True))
    lines = []
    for event, (result, warnings) in enumerate(
            zip(outcome.results, outcome.warnings, strict=True)):
        line: Line = {"event": event, "changes": changes[event]}
        if result in RETURNED:
            line["result"] = RETURNED[result]
        if result in CORRUPTED:
            line["corrupt"] = CORRUPTED[result]
        if event in resolved:
            page = resolved[event]
            line |= {"result": 0, "resolved": None if page == INVALID else format_frame(page)}
        if warnings:
            line["warnings"] = [name for bit, name in WARNING_NAMES.items() if warnings & bit]
        lines.append(line)
    return lines


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_does_what_the_kernel_did(name: str, model: str) -> None:
    outcome = Outcome.of(reference.replay(trace_named(name), MODELS[model]), MODELS[model])
    assert lines_of(outcome) == expected_lines(name, SPOKEN_FOR_BY[model])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", NAMES)
def test_the_vector_engine_does_what_the_kernel_did(
    name: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Short enough that the well-formed part of an ill-formed trace is numpy's too.
    monkeypatch.setattr(vector, "SHORTEST", 128)
    segments = vector.replay(trace_named(name), MODELS[model])
    assert lines_of(Outcome.of(segments, MODELS[model])) == (
        expected_lines(name, SPOKEN_FOR_BY[model]))


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CORNER_CASES)
def test_what_the_vector_engine_does_hangs_on_no_chunk_size(
    name: str, model: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vector, "SHORTEST", 1)
    segments = vector.replay(trace_named(name), MODELS[model], chunk=chunk)
    assert lines_of(Outcome.of(segments, MODELS[model])) == (
        expected_lines(name, SPOKEN_FOR_BY[model]))


def test_no_vector_is_missing() -> None:
    assert len(NAMES) == 39
    assert sum(len(expected_lines(name, model))
               for name in NAMES for model in set(SPOKEN_FOR_BY.values())) == 53208
