"""bpftrace's JSON lines: the schema of xenm2p-trace(5), and the same events as ftrace text."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.bpftrace_text import (
    HEADER,
    as_bpftrace,
    call,
    page_record,
    read_json,
    record,
)
from tests.formats.ftrace_text import INVALID, Grant, events_of, foreign, page_of, read
from tests.formats.test_perf import same_events
from xenm2p.errors import InputError
from xenm2p.formats.bpftrace import looks_like_bpftrace
from xenm2p.formats.bpftrace_json import Record, parse_line
from xenm2p.formats.detect import format_of
from xenm2p.trace import NO_CPU, NO_HANDLE, NO_REF, Trace

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
GRANTS = [Grant(0x8FE02 + i, 0xBDC01 + i, ref=1 + i, handle=0x4AF + i) for i in range(3)]
WRITE = record("set_p2m", pfn=0x8FEFB, mfn=0x43BE6)
MAP = call("set_foreign", *GRANTS)
UNMAP = call("clear_foreign", *GRANTS, number=78)


def wrapped(text: bytes) -> bytes:
    """The same through ``bpftrace -f json``."""
    return b"".join(
        json.dumps({"type": "printf", "data": line.decode() + "\n"}).encode() + b"\n"
        for line in text.splitlines())


def test_a_write() -> None:
    assert events_of(read_json(WRITE), "pfn", "mfn", "cpu", "time") == [
        ("set_p2m", 0x8FEFB, 0x43BE6, 1, 1_390_727_208_000)]


@pytest.mark.parametrize("pfn", [b'"pfn":"0x8fefb"', b'"pfn":589563', b'"pfn":"589563"',
                                 b'"pfn": "0x8FEFB"'])
def test_numbers_in_either_form(pfn: bytes) -> None:
    line = WRITE.replace(b'"pfn":"0x8fefb"', pfn)
    assert read_json(line * 3).events().pfn.tolist() == [0x8FEFB] * 3


def test_a_call_and_its_pages() -> None:
    trace = read_json(MAP + UNMAP)
    assert events_of(trace, "pfn", "mfn", "ref", "handle", "domid", "status", "call", "user") == [
        *(("map", g.pfn, g.mfn, g.ref, g.handle, 0, 0, 0, 0) for g in GRANTS),
        *(("unmap", g.pfn, INVALID, NO_REF, g.handle, 0xFFFF, 0, 1, 0) for g in GRANTS)]


def test_a_call_for_user_space() -> None:
    assert read_json(call("set_foreign", *GRANTS, kmap=1)).events().user.tolist() == [1] * 3


def test_a_failed_page() -> None:
    bad = Grant(5, 0, ref=9, status=-1, handle=0xFFFFFFFF)
    assert events_of(read_json(call("set_foreign", bad)), "pfn", "status", "mfn", "handle") == [
        ("map", 5, -1, INVALID, NO_HANDLE)]


def test_pages_that_were_lost_come_from_the_writes() -> None:
    text = call("set_foreign", *GRANTS[:1], count=2) + b"".join(
        record("set_p2m", pfn=g.pfn, mfn=foreign(g.mfn)) for g in GRANTS[:2])
    assert events_of(read_json(text), "pfn", "ref", "call") == [
        ("map", GRANTS[0].pfn, 1, 0), ("p2m_write", GRANTS[0].pfn, NO_REF, 0),
        ("map", GRANTS[1].pfn, NO_REF, 0), ("p2m_write", GRANTS[1].pfn, NO_REF, 0)]


def test_pages_of_a_call_that_was_lost() -> None:
    text = b"".join(page_record("set_foreign", 77, i, g) for i, g in enumerate(GRANTS[:2]))
    assert events_of(read_json(text), "pfn", "mfn", "call") == [
        ("map", g.pfn, g.mfn, 0) for g in GRANTS[:2]]


def test_a_number_of_a_call_may_come_again() -> None:
    text = call("set_foreign", GRANTS[0], time=1) + call("set_foreign", GRANTS[1], time=2)
    assert events_of(read_json(text), "pfn", "call") == [
        ("map", GRANTS[0].pfn, 0), ("map", GRANTS[1].pfn, 1)]


def test_stale_slots_are_left_out() -> None:
    text = call("set_foreign", *GRANTS, count=1)
    assert len(read_json(text).events()) == 1


def test_calls_before_their_hypercall_stand_for_those_not_seen_after_it() -> None:
    refs = call("map_refs", *GRANTS[:1]) + call("unmap_refs", *GRANTS[:1], number=78)
    writes = record("set_p2m", pfn=GRANTS[0].pfn, mfn=foreign(7))
    alone = read_json(call("map_refs", *GRANTS[:1]) + writes)
    assert events_of(alone, "pfn", "mfn", "ref") == [
        ("map", GRANTS[0].pfn, 7, 1), ("p2m_write", GRANTS[0].pfn, foreign(7), NO_REF)]
    assert [kind for kind, in events_of(read_json(refs))] == ["unmap"]
    both = read_json(call("map_refs", *GRANTS) + MAP)
    assert len(both.events()) == 3


def test_overrides() -> None:
    text = record("add_override", mfn=7, page=page_of(5), kmap_op=0xFFFF) + record(
        "remove_override", page=page_of(5), kmap_op=0)
    assert events_of(read_json(text), "pfn", "mfn", "user") == [
        ("map", 5, 7, 1), ("unmap", 5, INVALID, 0)]


def test_grants_and_locks() -> None:
    text = (record("grant_access", ref=9, domid=0, frame=0x401A2)
            + record("update_entry", ref=9, domid=0, frame=0x401A2, flags=1)
            + record("end_access", ref=9) + record("mm_filemap_add_to_page_cache", pfn=5)
            + record("folio_unlock", folio=page_of(5)) + record("folio_lock_slow", folio=7))
    trace = read_json(text)
    assert events_of(trace, "ref", "mfn", "pfn") == [
        ("grant", 9, 0x401A2, INVALID), ("end_grant", 9, INVALID, INVALID),
        ("lock_page", NO_REF, INVALID, 5), ("unlock_page", NO_REF, INVALID, 5)]
    assert any("1 tasks waited" in note for note in trace.notes)


def test_a_return_ends_its_call() -> None:
    write = record("set_p2m", pfn=GRANTS[1].pfn, mfn=foreign(8), time=9)
    open_call = call("set_foreign", GRANTS[0], count=2, time=1)
    back = record("set_foreign_ret", ret=0, time=5)
    assert [kind for kind, in events_of(read_json(open_call + write))] == [
        "map", "map", "p2m_write"]
    assert [kind for kind, in events_of(read_json(open_call + back + write))] == [
        "map", "set_p2m"]


def test_events_are_put_in_order_of_time() -> None:
    """bpftrace empties the buffer of one cpu after the other."""
    text = b"".join(record("set_p2m", pfn=cpu * 10 + i, mfn=1, cpu=cpu, time=10 * i + cpu)
                    for cpu in range(3) for i in range(3))
    assert read_json(text).events().pfn.tolist() == [0, 10, 20, 1, 11, 21, 2, 12, 22]


@pytest.mark.parametrize("comm", [
    b'say "hi"', b"back\\slash", b"tab\tname", b'"}', b'x","comm":"', b"", b"new\nline",
    b"a\nb\nc", b'{"time":1', b"\x01\x7f", "ünicöde".encode(), b"fifteen bytes..", b"0.xvda-0"])
def test_whatever_a_name_holds(comm: bytes) -> None:
    line = record("set_p2m", comm, pfn=1, mfn=2)
    trace = read_json(line * 3)
    assert trace.tasks == [comm.decode() + "-2656"]
    assert len(trace.events()) == 3
    assert trace.notes == read_json(record("set_p2m", pfn=1, mfn=2) * 3).notes


def test_a_name_that_is_no_utf_8() -> None:
    assert read_json(record("set_p2m", b"\xff", pfn=1, mfn=2)).tasks == ["\\xff-2656"]


def test_a_broken_name_across_two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    text = record("set_p2m", b"a\nb\nc", pfn=1, mfn=2) * 5
    for size in (1, 7, 50, 131):
        monkeypatch.setattr("xenm2p.formats.bpftrace_lines.BLOCK_SIZE", size)
        assert len(read_json(text).events()) == 5


@pytest.mark.parametrize("mark", [
    b"Lost 26 events\n", b'{"type": "lost_events", "data": {"events": 26}}\n',
    b'{"probe":"lost","count":26}\n'])
def test_losses(mark: bytes) -> None:
    assert events_of(read_json(WRITE + mark + WRITE), "cpu", "ref") == [
        ("set_p2m", 1, NO_REF), ("lost", NO_CPU, 26), ("set_p2m", 1, NO_REF)]


def test_a_loss_of_a_cpu_that_is_known() -> None:
    assert events_of(read_json(WRITE + b'{"probe":"lost","cpu":3,"count":"0x5"}\n'),
                     "cpu", "ref")[1] == ("lost", 3, 5)


def test_what_bpftrace_says_of_itself_is_nothing() -> None:
    text = b"Attaching 12 probes...\n" + HEADER + b"ready\n\n" + WRITE
    assert read_json(text).notes == read_json(HEADER + WRITE).notes
    assert any("1 lines are no bpftrace events and were left out, the first is line 2" in note
               for note in read_json(WRITE + b"some words\n").notes)


def test_the_header() -> None:
    trace = read_json(HEADER + WRITE)
    assert trace.kernel == "p2m-only-continue"
    assert "kernel model p2m-only-continue: the header names Linux 6.1.192" in trace.notes
    other = HEADER.replace(b"ffffea0000000000", b"ffffea0040000000")
    page = record("folio_unlock", folio=0xFFFFEA0040000000 + 64 * 5)
    assert read_json(other + page).events().pfn.tolist() == [5]


def test_other_probes_and_fields_are_left_out() -> None:
    other = record("vfs_read", n=5).replace(b'"n":"0x5"', b'"n":[1.5,"x"]')
    trace = read_json(WRITE.replace(b',"comm"', b',"stack":"a b","comm"') + other)
    assert len(trace.events()) == 1
    assert any("1 events of other probes were left out: vfs_read 1" in n for n in trace.notes)


def test_a_line_without_its_end_is_left_out() -> None:
    trace = read_json(WRITE + WRITE[:-1])
    assert len(trace.events()) == 1
    assert any("cut short" in note for note in trace.notes)


@pytest.mark.parametrize(("line", "why"), [
    (WRITE.replace(b'"0x8fefb"', b'"pfn"'), "'pfn' is '\"pfn\"', not an integer"),
    (WRITE.replace(b'"0x8fefb"', b"1.5"), "'pfn' is '1.5', not an integer"),
    (WRITE.replace(b'"0x8fefb"', b"true"), "'pfn' is 'true', not an integer"),
    (WRITE.replace(b'"0x8fefb"', b"null"), "'pfn' is 'null', not an integer"),
    (WRITE.replace(b'"0x8fefb"', b"010"), "not a JSON object: Expecting ',' delimiter"),
    (WRITE.replace(b'"0x8fefb"', b'"010"'), "'pfn' is '\"010\"', not an integer"),
    (WRITE.replace(b'"0x8fefb"', b"0x8f"), "not a JSON object: "),
    (WRITE.replace(b'"0x8fefb"', b'"0x' + b"f" * 17 + b'"'), "'pfn' is '295147905179352825855',"
                                                             " out of range"),
    (WRITE.replace(b'"0x8fefb"', b"1" * 5000), "not a JSON object: a number is too long"),
    (WRITE.replace(b'"pfn":', b'"pgn":'), "set_p2m: 'pfn' is missing (have "),
    (WRITE.replace(b'"time":1390727208000,', b""), "set_p2m: 'time' is missing (have cpu, pid,"),
    (WRITE.replace(b'"cpu":1', b'"cpu":40000'), "'cpu' is '40000', out of range (0 to 32767)"),
    (WRITE.replace(b'"cpu":1', b'"cpu":-1'), "'cpu' is '-1', out of range"),
    (WRITE.replace(b'"set_p2m"', b"7"), "'probe' is '7', not a string"),
    (WRITE.replace(b'"probe":"set_p2m",', b""), "event: 'probe' is missing"),
    (WRITE.replace(b',"comm":"0.xvda-0"}', b',"comm":"0.xvda-0"'), "not a JSON object: "),
    (b'{"xenm2p":"capture","version":2}\n', "version 2 of 'capture' is not known"),
    (b'{"xenm2p":"capture","version":1,"kernel":6.1}\n', "'kernel' is '6.1', not a string"),
    (b'{"type":"printf","data":7}\n', "'data' is '7', not a string"),
    (b'{"type":"lost_events","data":[]}\n', "'data' is '[]', not an object with 'events'"),
    (b'{"probe":"lost"}\n', "lost: 'count' is missing"),
    (MAP.replace(b'"count":3', b'"count":99999999'), "'count' is '99999999', out of range"),
    (MAP.replace(b'"call":77,"index"', b'"index"'), "set_foreign_page: 'call' is missing"),
    (b"{" * 100_000 + b"\n", "not a JSON object: "),
])
def test_what_is_wrong_names_line_and_field(line: bytes, why: str) -> None:
    with pytest.raises(InputError) as caught:
        read_json(WRITE * 2 + line)
    assert str(caught.value).startswith("capture.jsonl:")
    assert why in str(caught.value)
    if line.count(b"\n") == 1:
        assert str(caught.value).startswith("capture.jsonl:3: ")


def test_no_event() -> None:
    with pytest.raises(InputError, match=r"capture\.jsonl: no event of a bpftrace program in it"):
        read_json(HEADER)


@pytest.mark.parametrize("first", [
    HEADER, WRITE, wrapped(WRITE), b"ERROR: a warning of its own\n" + WRITE,
    b"Attaching 3 probes...\n" + WRITE,
    b'{"type": "attached_probes", "data": {"probes": 3}}\n', b"Lost 3 events\n" + WRITE,
    b'{"probe":"lost","count":3}\n'])
def test_it_looks_like_bpftrace(first: bytes) -> None:
    found = format_of(first)
    assert found is not None
    assert found.name == "bpftrace"


@pytest.mark.parametrize("first", [
    b"", b'{"format": "xenm2p-trace", "version": 1}', b"{" * 8192, b'{"time":' + b"1" * 8000,
    b'{"type": "other"}', b"Attaching 3 probes...\n" * 300,
    b"\n" * 8192])
def test_it_does_not_look_like_bpftrace(first: bytes) -> None:
    assert not looks_like_bpftrace(first)


def ftrace_of(name: str) -> bytes:
    """A capture as ftrace printed it."""
    return lzma.decompress((CAPTURES / f"{name}.txt.xz").read_bytes())


@pytest.mark.parametrize("name", [
    "gntdev-badref", "self-qdisk-pagelock", "v2-lost-trace_pipe", "v6-noirq-info"])
def test_captures_in_bpftraces_form_give_the_same_events(name: str) -> None:
    text = ftrace_of(name)
    assert same_events(without_losses(read_json(as_bpftrace(text))), without_losses(read(text)))


def without_losses(trace: Trace) -> Trace:
    """A loss has the time of its neighbour here, and may have another there."""
    events = trace.events()
    return Trace.of_events(events.rows(events.kind != 13), tasks=trace.tasks)


def test_wrapped_by_bpftrace_it_is_the_same() -> None:
    text = HEADER + as_bpftrace(ftrace_of("gntdev-badref"))
    whole = wrapped(text)
    assert same_events(read_json(whole), read_json(text))


def test_a_quote_that_is_not_escaped_is_an_error_in_the_wrapping() -> None:
    line = wrapped(WRITE).replace(b'\\"pfn\\"', b'"pfn\\"')
    with pytest.raises(InputError, match=r"capture\.jsonl:2: not a JSON object"):
        read_json(wrapped(WRITE) + line)


def test_names_survive_the_wrapping() -> None:
    for comm in (b'say "hi"', b"back\\slash", b"tab\tname", b"new\nline", b'"}'):
        line = record("set_p2m", comm, pfn=1, mfn=2)
        data = json.dumps({"type": "printf", "data": line.decode()}).encode() + b"\n"
        assert read_json(data * 2).tasks == [comm.decode() + "-2656"]


SMALL = HEADER + MAP + b"Lost 3 events\n" + b"".join(
    record("set_p2m", pfn=g.pfn, mfn=foreign(g.mfn)) for g in GRANTS[:2]) + wrapped(
        UNMAP) + record("grant_access", b'a"\nb', ref=9, domid=0, frame=5)


def test_every_truncation_gives_a_part_of_the_whole() -> None:
    whole = rows_of(read_json(SMALL))
    for end in range(0, len(SMALL), 5):
        try:
            part = rows_of(read_json(SMALL[:end]))
        except InputError as error:
            assert str(error).startswith("capture.jsonl")
            continue
        assert {row[:3] for row in part} <= {row[:3] for row in whole}


def rows_of(trace: Trace) -> list[tuple[object, ...]]:
    """All events but losses."""
    return [row for row in events_of(trace, "pfn", "mfn", "ref", "call") if row[0] != "lost"]


def test_thousands_of_flipped_bytes() -> None:
    chance = random.Random(3)
    for _ in range(400):
        damaged = bytearray(SMALL)
        for _ in range(chance.choice((1, 1, 2, 8))):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            events = read_json(bytes(damaged)).events()
        except InputError as error:
            assert str(error).startswith("capture.jsonl")
            assert "\n" not in str(error)
            continue
        assert len(events) < 30


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_junk(junk: bytes) -> None:
    looks_like_bpftrace(junk)
    for text in (junk, b'{"time":' + junk, WRITE[:50] + junk):
        try:
            read_json(text)
        except InputError as error:
            assert str(error).startswith("capture.jsonl")


_NUMBERS = st.integers(-(1 << 64), 1 << 65).flatmap(lambda n: st.sampled_from(
    [str(n), f'"{n}"', f'"{n:#x}"', f'"0{n}"', f"{n}.0", f'"{n:#X}"']))


@settings(deadline=None)
@given(st.lists(st.tuples(_NUMBERS, _NUMBERS, st.binary(max_size=18)), min_size=2, max_size=6))
def test_many_at_a_time_is_the_same_as_one_at_a_time(
        rows: list[tuple[str, str, bytes]]) -> None:
    lines = [f'{{"time":{i},"cpu":0,"pid":7,"probe":"set_p2m","pfn":{pfn},"mfn":{mfn},"comm":"'
             .encode() + comm.replace(b"\n", b"") + b'"}' for i, (pfn, mfn, comm)
             in enumerate(rows)]
    expected: list[tuple[str, int, int]] | None = []
    for place, line in enumerate(lines, start=1):
        try:
            found = parse_line(line, "capture.jsonl", place)
        except InputError:
            expected = None
            break
        assert isinstance(found, Record)
        assert expected is not None
        expected.append(("set_p2m", found.numbers["pfn"], found.numbers["mfn"]))
    text = b"\n".join([*lines, b""])
    if expected is None:
        with pytest.raises(InputError):
            read_json(text)
    else:
        kinds = [(kind, pfn, mfn) for kind, pfn, mfn in events_of(read_json(text), "pfn", "mfn")
                 if kind in ("set_p2m", "p2m_write")]
        assert [row[1:] for row in kinds] == [row[1:] for row in expected]
