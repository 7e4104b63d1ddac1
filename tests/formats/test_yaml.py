"""The YAML format: what a file means, what is written, what is refused and in which words."""

from __future__ import annotations

import io

import numpy as np
import pytest
import yaml

from tests.strategies import events_of_rows
from xenm2p.errors import InputError
from xenm2p.formats import yaml_strict
from xenm2p.formats.yaml import read_yaml, read_yaml_strictly, write_yaml
from xenm2p.trace import (
    FOREIGN,
    IDENTITY,
    INVALID,
    KINDS,
    MAX_FRAME,
    NO_CPU,
    NO_REF,
    Kind,
    Trace,
    same_trace,
)

HEAD = "format: xenm2p-trace\nversion: 1\n"
EXAMPLE = """\
format: xenm2p-trace
version: 1
kernel: "3.4.5"
domain: 0
origin: free text
memory:
- {pfn: 0x1000, mfn: 0x50000, count: 256}
- {pfn: 0x8000, count: 64}
m2p:
- {mfn: 0x90000, pfn: 0x200, count: 16}
events:
- {time: 1000, kind: lock_page, pfn: 0x1010, task: mount-1042}
- {time: 2000, kind: map, mfn: 0x50010, pfn: 0x8000, user: true, domid: 0, ref: 8, handle: 3}
- {time: 9000, kind: unmap, pfn: 0x8000, user: true, handle: 3}
"""


def read(text: str) -> Trace:
    return read_yaml(text.encode(), "t.yaml")


def event(line: str) -> dict[str, int]:
    """The columns of the only event of a trace."""
    columns = read(f"{HEAD}events:\n- {{{line}}}\n").events().columns()
    return {name: int(column[0]) for name, column in columns.items()}


def written(trace: Trace) -> str:
    out = io.BytesIO()
    write_yaml(trace, out)
    return out.getvalue().decode()


def error_of(text: str) -> str:
    """What both ways of reading say against a text."""
    said = []
    for way in (read_yaml, read_yaml_strictly):
        with pytest.raises(InputError) as caught:
            way(text.encode(), "t.yaml")
        said.append(str(caught.value))
    assert said[0] == said[1]
    return said[0]


def event_error(line: str) -> str:
    """What is said against the second event of a trace, which stands in line 5."""
    good = "- {time: 0, kind: gup_fast, pfn: 1}"
    return error_of(f"{HEAD}events:\n{good}\n- {{{line}}}\n")


class TestMeaning:
    def test_example_of_the_format(self):
        trace = read(EXAMPLE)
        assert (trace.kernel, trace.domain, trace.origin) == ("3.4.5", 0, "free text")
        assert trace.memory.tuples() == [(0x1000, 0x50000, 256), (0x8000, INVALID, 64)]
        assert trace.m2p.tuples() == [(0x90000, 0x200, 16)]
        events = trace.events()
        assert events.kind.tolist() == [Kind.LOCK_PAGE, Kind.MAP, Kind.UNMAP]
        assert events.time.tolist() == [1000, 2000, 9000]
        assert events.handle.tolist() == [0xFFFFFFFF, 3, 3]
        assert trace.tasks == ["mount-1042"]

    def test_example_is_written_as_it_stands(self):
        assert written(read(EXAMPLE)) == EXAMPLE.replace('"3.4.5"', "3.4.5")

    def test_absent_columns_hold_their_sentinels(self):
        columns = read(f"{HEAD}events:\n- {{time: 1, kind: gup_fast, pfn: 2}}\n").events()
        absent = {name: int(column[0]) for name, column in columns.columns().items()}
        assert absent == {
            "time": 1, "kind": Kind.GUP_FAST, "pfn": 2, "mfn": INVALID, "user": 0,
            "domid": 0xFFFF, "ref": NO_REF, "handle": 0xFFFFFFFF, "status": 0, "call": -1,
            "cpu": -1, "task": -1,
        }

    @pytest.mark.parametrize(("text", "value"), [
        ("0x1a2b", 0x1A2B), ("6699", 6699), ("invalid", INVALID), ("F:0x1a", FOREIGN | 0x1A),
        ("I:0x1a", IDENTITY | 0x1A), ('"invalid"', INVALID), ("'F:26'", FOREIGN | 26),
        ("0x0", 0), ("0xfffffffffffff", MAX_FRAME), ("F:0xfffffffffffff", FOREIGN | MAX_FRAME),
    ])
    def test_entry(self, text, value):
        assert event(f"time: 1, kind: set_p2m, pfn: 1, mfn: {text}")["mfn"] == value

    def test_kernel_is_the_text_that_stands_there(self):
        assert read(f"{HEAD}kernel: 3.10\nevents: []\n").kernel == "3.10"

    def test_task_is_the_text_that_stands_there(self):
        trace = read(f"{HEAD}events:\n- {{time: 1, kind: lock_page, pfn: 1, task: 010}}\n")
        assert trace.tasks == ["010"]

    def test_negative_status(self):
        assert event("time: 1, kind: map, mfn: 1, pfn: 2, status: -3")["status"] == -3

    def test_user_false_is_as_if_absent(self):
        assert event("time: 1, kind: map, mfn: 1, pfn: 2, user: false")["user"] == 0

    def test_lost_count_is_in_the_column_of_refs(self):
        assert event("time: 1, kind: lost, cpu: 0, count: 7")["ref"] == 7

    def test_lost_count_of_nothing_is_a_count_not_told(self):
        line = "- {time: 1, kind: lost, count: 0, cpu: 0}\n"
        trace = read(f"{HEAD}events:\n{line}")
        assert trace.events().ref.tolist() == [NO_REF]
        assert line in written(trace)

    def test_a_loss_on_a_cpu_that_is_not_known(self):
        line = "- {time: 1, kind: lost, count: 0}\n"
        trace = read(f"{HEAD}events:\n{line}")
        assert trace.events().cpu.tolist() == [NO_CPU]
        assert line in written(trace)

    def test_memory_of_p2m_entries(self):
        rows = "- {pfn: 1, mfn: F:0x10, count: 2}\n- {pfn: 3, mfn: I:0x3}\n"
        trace = read(f"{HEAD}memory:\n{rows}events: []\n")
        assert trace.memory.tuples() == [(1, FOREIGN | 0x10, 2), (3, IDENTITY | 3, 1)]

    def test_sections_in_any_order_and_layout(self):
        text = ("version: 1\nevents:\n  - time: 5\n    kind: gup_fast\n    pfn: 0x7\n"
                "  - {time: 6,\n     kind: lookup, mfn: 1}  # two lines\n"
                "m2p: [{mfn: 1, pfn: 2}]\nformat: xenm2p-trace\n")
        trace = read(text)
        assert trace.events().time.tolist() == [5, 6]
        assert trace.m2p.tuples() == [(1, 2, 1)]

    def test_comments_and_blank_lines(self):
        text = (f"# a\n{HEAD}\nevents:  # b\n\n# c\n- {{time: 1, kind: lookup, mfn: 2}} # d\n"
                "  # größe\n- {time: 2, kind: lookup, mfn: 2}\n\n")
        assert read(text).events().time.tolist() == [1, 2]

    def test_no_newline_at_the_end(self):
        assert read(f"{HEAD}events:\n- {{time: 1, kind: lookup, mfn: 2}}").length == 1

    def test_windows_line_ends(self):
        assert same_trace(read(EXAMPLE.replace("\n", "\r\n")), read(EXAMPLE))

    def test_byte_order_mark(self):
        assert same_trace(read("\ufeff" + EXAMPLE), read(EXAMPLE))

    def test_json_is_yaml(self):
        text = ('{"format": "xenm2p-trace", "version": 1, "events": '
                '[{"time": 1, "kind": "map", "mfn": 1, "pfn": 2, "user": true}]}')
        assert read(text).events().user.tolist() == [1]

    def test_without_libyaml(self, monkeypatch):
        monkeypatch.setattr(yaml_strict, "LOADER", yaml.SafeLoader)
        assert same_trace(read_yaml_strictly(EXAMPLE.encode(), "t.yaml"), read(EXAMPLE))


class TestRefusedNumbers:
    @pytest.mark.parametrize(("text", "why"), [
        ("010", "YAML 1.1 would read octal"), ("1:30", "YAML 1.1 would read base 60"),
        ("1_000", "no underscores"), ("0b1", ""), ("+5", ""), ("1e5", ""), ("1.0", ""),
        ("no", ""), ("0x", ""), ("0X1F", ""), ("0o17", ""), ("٣", ""), ("~", ""), ("", ""),
        ("-", ""),
    ])
    def test_what_is_no_decimal_or_hex_number(self, text, why):
        said = event_error(f"time: {text}, kind: gup_fast, pfn: 1")
        assert said.startswith(f"t.yaml:5: event 1: 'time': {text!a} is not a decimal or 0x")
        assert why in said

    def test_number_in_quotes(self):
        assert event_error('time: "1", kind: gup_fast, pfn: 1') == (
            "t.yaml:5: event 1: 'time': the text '1' is not a number; write it without quotes")

    @pytest.mark.parametrize("text", ["yes", "no", "on", "True", "1", '"true"', "~"])
    def test_user_is_true_or_false(self, text):
        said = event_error(f"time: 1, kind: map, mfn: 1, pfn: 1, user: {text}")
        assert "event 1: 'user': " in said
        assert said.endswith("is neither true nor false")

    @pytest.mark.parametrize("line", [
        "time: -1, kind: gup_fast, pfn: 1",
        "time: 0x8000000000000000, kind: gup_fast, pfn: 1",
        "time: 99999999999999999999999, kind: gup_fast, pfn: 1",
        "time: 1, kind: gup_fast, pfn: 0x10000000000000",
        "time: 1, kind: gup_fast, pfn: -1",
        "time: 1, kind: set_p2m, pfn: 1, mfn: F:0x10000000000000",
        "time: 1, kind: map, mfn: 1, pfn: 1, domid: 65535",
        "time: 1, kind: map, mfn: 1, pfn: 1, ref: 0xffffffff",
        "time: 1, kind: map, mfn: 1, pfn: 1, handle: 0xffffffff",
        "time: 1, kind: map, mfn: 1, pfn: 1, status: -32769",
        "time: 1, kind: map, mfn: 1, pfn: 1, call: -1",
        "time: 1, kind: gup_fast, pfn: 1, cpu: 32768",
        "time: 1, kind: lost, cpu: 0, count: 0xffffffff",
    ])
    def test_out_of_range(self, line):
        assert " is out of range (" in event_error(line)

    @pytest.mark.parametrize("line", [
        "time: 1, kind: gup_fast, pfn: invalid", "time: 1, kind: map, mfn: F:0x1, pfn: 1",
        "time: 1, kind: set_m2p, mfn: invalid, pfn: 1", "time: 1, kind: lookup, mfn: I:0x1",
    ])
    def test_entry_where_a_frame_is_needed(self, line):
        assert event_error(line).endswith("cannot stand here, only a frame number")


class TestRefusedRows:
    def test_missing_key(self):
        assert event_error("kind: map, pfn: 1, user: true, time: 1") == (
            "t.yaml:5: event 1: 'mfn' is missing (have pfn, user, time)")

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_needed_key_is_needed(self, kind):
        values = {"time": "1", "task": "a", "count": "1"}
        needs = {"time": "time", **KINDS[kind].needs}
        for left_out in needs:
            line = ", ".join(f"{key}: {values.get(key, '1')}" for key in needs if key != left_out)
            assert f"'{left_out}' is missing" in event_error(f"kind: {kind}, {line}")

    def test_missing_kind(self):
        assert event_error("time: 1").endswith("event 1: 'kind' is missing (have time)")

    def test_unknown_kind(self):
        assert event_error("time: 1, kind: lokup, mfn: 1") == (
            "t.yaml:5: event 1: unknown kind 'lokup' (did you mean 'lookup'?)")

    def test_unknown_key(self):
        assert event_error("time: 1, kind: lookup, mnf: 1") == (
            "t.yaml:5: event 1: unknown key 'mnf' (did you mean 'mfn'?)")

    def test_key_of_another_kind(self):
        assert event_error("time: 1, kind: lookup, mfn: 1, handle: 2") == (
            "t.yaml:5: event 1: 'handle' is not for lookup; it is for map, unmap")

    def test_key_twice(self):
        assert event_error("time: 1, kind: lookup, mfn: 1, mfn: 2") == (
            "t.yaml:5: event 1: 'mfn' is given twice")

    def test_error_names_the_line_of_the_field(self):
        text = f"{HEAD}events:\n- time: 1\n  kind: lookup\n  mfn: 012\n"
        assert error_of(text).startswith("t.yaml:6: event 0: 'mfn': '012'")

    @pytest.mark.parametrize(("row", "said"), [
        ("{mfn: 1}", "memory row 1: 'pfn' is missing (have mfn)"),
        ("{pfn: 1, coun: 2}", "memory row 1: unknown key 'coun' (did you mean 'count'?)"),
        ("{pfn: 1, count: 0}", "memory row 1: 'count': '0' is out of range"),
        ("{pfn: 0xfffffffffffff, count: 2}", "beyond the last frame, 0xfffffffffffff"),
        ("{pfn: 1, mfn: F:0xfffffffffffff, count: 2}", "beyond the last frame"),
        ("7", "memory row 1: the value '7' where a mapping is needed"),
    ])
    def test_memory_row(self, row, said):
        text = error_of(f"{HEAD}memory:\n- {{pfn: 0}}\n- {row}\nevents: []\n")
        assert text.startswith("t.yaml:5: ")
        assert said in text

    def test_m2p_row_needs_both_frames(self):
        text = f"{HEAD}m2p:\n- {{mfn: 1}}\nevents: []\n"
        assert error_of(text) == "t.yaml:4: m2p row 0: 'pfn' is missing (have mfn)"


class TestRefusedFiles:
    @pytest.mark.parametrize(("text", "said"), [
        ("", "t.yaml:1: the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("- 1\n", "t.yaml:1: not a trace: a list where a mapping"),
        ("fromat: x\n", "t.yaml:1: unknown key 'fromat' (did you mean 'format'?)"),
        ("format: xenm2p\n", "t.yaml:1: 'format' is 'xenm2p', not xenm2p-trace"),
        ("version: 1\nevents: []\n", "t.yaml: not a trace: 'format' is missing"),
        ("format: xenm2p-trace\nevents: []\n", "t.yaml: not a trace: 'version' is missing"),
        (HEAD, "t.yaml: not a trace: 'events' is missing"),
        ("version: 2\n", "t.yaml:1: version '2' is not known; this xenm2p reads version 1"),
        ("version: \"1\"\n", "write it without quotes"),
        (f"{HEAD}domain: 65535\nevents: []\n", "t.yaml:3: 'domain': '65535' is out of range"),
        (f"{HEAD}kernel:\nevents: []\n", "t.yaml:3: 'kernel' is empty"),
        (f"{HEAD}kernel: [3]\nevents: []\n", "'kernel': a list where one value is needed"),
        (f"{HEAD}events: 3\n", "'events': the value '3' where a list of rows is needed"),
        (f"{HEAD}events:\n- [1]\n", "t.yaml:4: event 0: a list where a mapping is needed"),
        (f"{HEAD}events: []\nevents: []\n", "t.yaml:4: 'events' is given twice"),
        (f"{HEAD}events:\n{HEAD}", "t.yaml:4: 'format' is given twice"),
        (f"{EXAMPLE}---\n{EXAMPLE}", "t.yaml:15: more than one YAML document"),
        (f"{HEAD}events:\n- {{time: {{}}}}\n", "'time': a mapping where one value is needed"),
        (f"{HEAD}events:\n- {{? [a] : 1}}\n", "t.yaml:4: a list as a key of event 0"),
    ])
    def test_refused(self, text, said):
        assert said in error_of(text)

    @pytest.mark.parametrize(("text", "said"), [
        ("- &a {time: 1}", "t.yaml:4: a YAML anchor ('a') is not allowed"),
        ("- *a", "t.yaml:4: a YAML alias ('a') is not allowed"),
        ("- {<<: *a}", "t.yaml:4: a YAML merge key (<<) is not allowed"),
        ("- !!python/object:os.system {}", "t.yaml:4: a YAML tag ("),
        ("- {time: !!int '1'}", "t.yaml:4: a YAML tag ("),
    ])
    def test_yaml_beyond_plain_data(self, text, said):
        assert said in error_of(f"{HEAD}events:\n{text}\n")


class TestWriter:
    def test_no_events(self):
        assert written(read(f"{HEAD}events: []\n")).endswith("events: []\n")

    @pytest.mark.parametrize("name", [
        "mount-1042", "kworker/0:1H-23", "<...>-7", "qemu system-1", "(sd-pam)-9", "a=b", "x:",
    ])
    def test_any_yaml_reader_finds_the_same_task(self, name):
        rows = [{"time": 1, "kind": Kind.LOCK_PAGE, "pfn": 1, "task": 0}]
        text = written(Trace.of_events(events_of_rows(rows), tasks=[name]))
        assert yaml.safe_load(text)["events"][0]["task"] == name

    @pytest.mark.parametrize("name", [
        "true", "1042", "1:30", "2001-01-01", "null", "", "a: b", "a #b", "- a", "{a}", "ä", " a",
        "line\nfeed", "\x00\x1b", "\u2028", "\U0001f600", "'", '"', "\\",
    ])
    def test_any_yaml_reader_takes_odd_names_for_strings(self, name):
        rows = [{"time": 1, "kind": Kind.LOCK_PAGE, "pfn": 1, "task": 0}]
        text = written(Trace.of_events(events_of_rows(rows), tasks=[name], origin=name or "x"))
        assert yaml.safe_load(text)["events"][0]["task"] == name
        assert read(text).tasks == [name]

    def test_bytes_that_were_no_text_are_spelt_out(self):
        rows = [{"time": 1, "kind": Kind.LOCK_PAGE, "pfn": 1, "task": 0}]
        text = written(Trace.of_events(events_of_rows(rows), tasks=["a\udcff"]))
        assert read(text).tasks == ["a\\udcff"]

    @pytest.mark.parametrize(("row", "said"), [
        ({"kind": Kind.LOCK_PAGE, "pfn": 1}, "'task' of lock_page is absent"),
        ({"kind": Kind.UNMAP}, "'pfn' of unmap is absent"),
        ({"kind": Kind.GUP_FAST, "pfn": 1 << 52}, "'pfn' of gup_fast is 0x10000000000000"),
        ({"kind": Kind.MAP, "pfn": 1, "mfn": FOREIGN | 1}, "'mfn' of map is 0x8000000000000001"),
        ({"kind": Kind.P2M_WRITE, "pfn": 1, "mfn": FOREIGN | IDENTITY | 1},
         "'mfn' of p2m_write is 0xc000000000000001"),
        ({"kind": Kind.GUP_FAST, "pfn": 1, "time": -5}, "'time' of gup_fast is -0x5"),
    ])
    def test_what_yaml_cannot_say_is_refused(self, row, said):
        rows = [{"kind": Kind.LOOKUP, "mfn": 1}, row]
        with pytest.raises(InputError, match=f"event 1: {said}"):
            written(Trace.of_events(events_of_rows(rows)))

    def test_is_written_chunk_by_chunk(self):
        piece = events_of_rows([{"kind": Kind.LOOKUP, "mfn": 1}] * 3)
        many = Trace(chunks_of=lambda: iter([piece] * 4))
        one = read(written(many)).events()
        assert len(one) == 12
        assert np.all(one.mfn == 1)
