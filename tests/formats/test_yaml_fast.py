"""The fast path and the strict parser are two ways to the same trace, or the same error."""

from __future__ import annotations

import io
from unittest.mock import patch

from hypothesis import example, given, settings
from hypothesis import strategies as st

import xenm2p.formats.yaml as yaml_format
from tests.strategies import traces
from xenm2p.errors import InputError
from xenm2p.formats.yaml import read_yaml, read_yaml_strictly, write_yaml
from xenm2p.trace import Trace, same_trace

HEAD = b"format: xenm2p-trace\nversion: 1\n"
NO_TEXT = "not a text in UTF-8"


def written(trace: Trace) -> bytes:
    out = io.BytesIO()
    write_yaml(trace, out)
    return out.getvalue()


def outcome(read: object, data: bytes) -> Trace | str:
    try:
        return read(data, "t.yaml")  # type: ignore[operator]
    except InputError as error:
        return str(error)


def assert_same_outcome(data: bytes) -> None:
    fast, strict = outcome(read_yaml, data), outcome(read_yaml_strictly, data)
    if isinstance(fast, Trace) and isinstance(strict, Trace):
        assert same_trace(fast, strict)
    elif NO_TEXT in str(fast) + str(strict):
        # libyaml looks at the bytes far ahead of the text it parses: of two errors in a file
        # either may come first.
        assert isinstance(fast, str) and isinstance(strict, str)
    else:
        assert fast == strict


# Pieces of text that have a meaning in YAML, or that look like what the writer emits.
PIECES = st.sampled_from([
    " ", "  ", "\n", "\r\n", "\t", "#", " #", "# note\n", "---\n", "...\n", ":", ": ", ",", ", ",
    "{", "}", "[", "]", "- ", "- {", "'", '"', "\\", "&a ", "*a", "!!str ", "|", ">", "?", "%",
    "@", "`", "~", "-", "+", ".", "_", "=", "<<", "0", "0x", "0X", "F:", "I:", "F:0x", "invalid",
    "true", "false", "no", "null", "1:30", "010", "99999999999999999999", "1e5", "\x00", "\x7f",
    "\u0085", "\u2028", "\ufeff", "é", "time: 1, ", "kind: map", "pfn: 0x1", ", user: true",
    ", task: a b", ", task: 'a, b'", "memory:\n", "m2p:\n", "events:\n", "events: []\n",
    "- {pfn: 0x1, mfn: 0x2}\n", "- {time: 1, kind: gup_fast, pfn: 7}\n", "domain: 1\n",
    "- {time: 1,\n  kind: gup_fast, pfn: 7}\n", "- time: 1\n  kind: gup_fast\n  pfn: 7\n",
    "origin: |\n  text\n", "\nevents:\n", "\n# c\n\n", "  ", "- []\n", "- {}\n", "count: 0",
])


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """A written trace with a few bytes cut out and a few pieces put in."""
    data = written(draw(traces(max_events=8)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.sampled_from([0, 0, 1, 2, 7, 40]))
        piece = draw(PIECES | st.just("")).encode()
        data = data[:at] + piece + data[at + cut:]
    return data


@given(traces())
def test_what_is_written_is_read(trace):
    assert same_trace(read_yaml(written(trace), "t.yaml"), trace)


@given(traces())
def test_strict_parser_reads_what_is_written(trace):
    assert same_trace(read_yaml_strictly(written(trace), "t.yaml"), trace)


# Blocks of a line or two, and one block for all.
@settings(max_examples=600)
@given(data=mutated_files(), block=st.sampled_from([40, 200, 1 << 20]))
@example(data=HEAD + b"events:\n- {time: 1, kind: gup_fast, pfn: 7}\n  - {time: 1}\n", block=40)
@example(data=HEAD + b"events:\n- {time: 1, kind: gup_fast, pfn\0: 7}\n", block=40)
@example(data=HEAD + b"events:\n- {time: 1, kind: gup_fast\0, pfn: 7}\n", block=40)
@example(data=HEAD + b"events:# note\n", block=40)
@example(data=HEAD + b"events:\nevents:\n- {time: 1, kind: gup_fast, pfn: 7}\n", block=40)
def test_mutated_files_give_the_same_trace_or_the_same_error(data, block):
    with patch.object(yaml_format, "_BLOCK", block):
        assert_same_outcome(data)
