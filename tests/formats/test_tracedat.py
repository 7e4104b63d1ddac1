"""trace.dat of trace-cmd: what it says is what the same events say as text."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.ftrace_text import (
    INVALID,
    Grant,
    events_of,
    foreign,
    map_call,
    map_refs,
    page_of,
    read,
    set_p2m,
    unmap_call,
    unmap_refs,
)
from tests.formats.tracedat_files import Event, File
from xenm2p.errors import InputError
from xenm2p.formats.ftrace import read_ftrace
from xenm2p.formats.tracedat import looks_like_tracedat, read_tracedat
from xenm2p.trace import COLUMNS, Events, Kind, Trace

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
GRANTS = [Grant(0x8FE02 + i, 0xBDC01 + i, ref=1 + i, handle=0x4AF + i) for i in range(3)]
FORMS = {
    "6": File.version6,
    "7": File.version7,
    "7 zlib": lambda file: file.version7("zlib"),
    "7 zstd": lambda file: file.version7("zstd"),
    "7 table first": lambda file: file.version7(table_first=True),
    "7 as described": lambda file: file.version7(has_page_size=False),
}
EVERY_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def run(*, at: int = 0) -> list[Event]:
    """Maps, writes, unmaps, grants and locks on two cpus."""
    begin = [
        "grant_access: (gnttab_grant_foreign_access_ref+0x0/0x30) ref=9 domid=3 frame=0x401a2 "
        "readonly=0",
        map_refs(*GRANTS), map_call(*GRANTS),
        *(set_p2m(g.pfn, foreign(g.mfn)) for g in GRANTS),
        "set_foreign_ret: (xlated+0x1/0x2 <- set_foreign_p2m_mapping) ret=0",
        "mm_filemap_add_to_page_cache: dev=0 ino=0 pfn=0x26606 ofs=4096"]
    end = [
        unmap_refs(*GRANTS[:2]), unmap_call(*GRANTS[:2]),
        *(set_p2m(g.pfn, INVALID) for g in GRANTS[:2]),
        f"folio_unlock: (folio_unlock+0x0/0x20) folio=0x{page_of(0x26606):x} flags=0x5",
        "end_access: (gnttab_end_foreign_access_ref_v1+0x0/0x40) ref=9",
        "other: (do_sys_open+0x0/0x40) x=0x1"]
    times = iter(range(1_000_000 + at, 10_000_000 + at, 7000))
    return [Event(text, "0.xvda-0-2656", 1, next(times)) for text in begin] + [
        Event(text, "ksoftirqd/0-14", 0, next(times)) for text in end]


def read_dat(data: bytes) -> Trace:
    """The trace in a file's bytes."""
    return read_tracedat(io.BytesIO(data), "trace.dat")


def as_text(events: list[Event]) -> Trace:
    """The trace of the same events as text, merged by time."""
    order = sorted(events, key=lambda event: (event.time, event.cpu))
    return read("".join(event.line() for event in order))


def assert_same(found: Trace, expected: Trace) -> None:
    """Same events, with the same tasks."""
    assert found.tasks == expected.tasks
    assert events_of(found, *COLUMNS) == events_of(expected, *COLUMNS)


class TestForms:
    @EVERY_FORM
    def test_every_form_gives_what_text_gives(self, form):
        assert looks_like_tracedat(form(File(run()))[:64])
        found = read_dat(form(File(run())))
        assert_same(found, as_text(run()))
        assert found.memory.tuples() == as_text(run()).memory.tuples()
        assert any("other 1" in note for note in found.notes)

    @EVERY_FORM
    def test_the_kernel_is_that_of_uname(self, form):
        trace = read_dat(form(File(run(), uname="Linux box 4.4.0-1 x86_64")))
        assert trace.kernel == "p2m-only"
        assert any("names Linux 4.4.0-1" in note for note in trace.notes)

    @EVERY_FORM
    def test_other_buffers_are_named(self, form):
        trace = read_dat(form(File(run(), instances=["mine", "x"])))
        assert any("also has the buffers 'mine', 'x', which are not read" in note
                   for note in trace.notes)

    @EVERY_FORM
    def test_kernels_with_overrides(self, form):
        grant = GRANTS[0]
        page = f"page=0x{page_of(grant.pfn):x}"
        texts = [
            map_refs(grant, kmap=0xFFFF888000000000),
            f"add_override: (m2p_add_override+0x0/0x1a0) mfn=0x{grant.mfn:x} {page} "
            "kmap_op=0xffff888000000000",
            set_p2m(grant.pfn, foreign(grant.mfn)),
            f"remove_override: (m2p_remove_override+0x0/0x1a0) {page} kmap_op=0x0",
            set_p2m(grant.pfn, INVALID)]
        events = [Event(text, time=1000 * n) for n, text in enumerate(texts, 1)]
        assert_same(read_dat(form(File(events))), as_text(events))

    @pytest.mark.parametrize("fields", [
        "count=2 kmap_ops=0x0 status=-3 r0=1 h0=2 a0=0xbdc01000 p0=0xffffea00023f8080 r1=3 h1=4 "
        "a1=0xbdc02000 p1=0xffffea00023f80c0",
        "count=1 kmap_ops=0x10 r0=1 h0=2 a0=0xbdc01000 p0=0x0",
        "count=40 pages=0xffffc90040867b98",
        "arg1=0xffffc90040867bf0 arg2=0x0 arg3=0x5 arg4=1 "
        "arg5={0x1,0x100000002,0x300000000,0xbdc01000} arg6={0xffffea00023f8080}",
        "kmap_ops=0x0 op={0x1,0x2,0x3,0x4} page={0xffffea00023f8080}",
        "kmap_ops=0x0 count=1 op={0x0,0x0,0x0,0x0} page={0x0}"])
    def test_calls_of_other_probes(self, fields):
        events = [Event(f"set_foreign: (set_foreign_p2m_mapping+0x4/0x300) {fields}"),
                  Event(set_p2m(0x8FE02, foreign(0xBDC01)), time=2000)]
        found, expected = read_dat(File(events).version6()), as_text(events)
        assert_same(found, expected)
        assert [note[:20] for note in found.notes if "zeros only" in note] == [
            note[:20] for note in expected.notes if "zeros only" in note]

    def test_the_event_stands_for_the_function_without_kallsyms(self):
        assert_same(read_dat(File(run(), kallsyms=False).version6()), as_text(run()))

    def test_inside_of_a_function_registers_hold_other_things(self):
        inside = [Event(f"set_p2m: (__set_phys_to_machine+0x{at:x}/0x180) pfn=0x{at:x} mfn=0x6",
                        time=1000 * at) for at in (1, 5, 6, 64)]
        file = File(inside)
        assert len(read_dat(file.version6()).events()) == 2

    def test_many_pages_and_chunks(self):
        events = [event for n in range(60) for event in run(at=1_000_000 * n)]
        for data in (File(events).version6(), File(events).version7("zstd")):
            assert_same(read_dat(data), as_text(events))

    def test_unknown_tasks_and_the_idle_task(self):
        events = [Event(set_p2m(1, 2), "<...>-77", time=1000),
                  Event(set_p2m(2, 3), "<idle>-0", 1, 2000)]
        assert read_dat(File(events).version7()).tasks == ["<...>-77", "<idle>-0"]

    def test_a_path_is_read_as_a_stream_is(self, tmp_path):
        path = tmp_path / "t"
        path.write_bytes(File(run()).version7("zlib"))
        assert_same(read_tracedat(path, "t"), as_text(run()))


class TestTimes:
    @pytest.mark.parametrize("absolute", [False, True])
    def test_long_pauses(self, absolute):
        times = [1000, 1000 + (1 << 27) * 1000, 10**12, 10**12 + 1000, 10**15]
        events = [Event(set_p2m(n, n + 1), time=time, absolute=absolute)
                  for n, time in enumerate(times)]
        assert read_dat(File(events).version6()).events().time.tolist() == times

    def test_a_stamp_has_the_high_bits_of_the_time_before(self):
        first = (5 << 59) - 1000
        events = [Event(set_p2m(1, 1), time=first),
                  Event(set_p2m(2, 2), time=first + 5000, absolute=True)]
        assert read_dat(File(events).version6()).events().time.tolist() == [
            first, first + 5000]

    def test_discarded_records_count_their_time(self):
        events = [Event(set_p2m(1, 1), time=1000),
                  Event(set_p2m(2, 2), time=4000, discarded=24)]
        assert read_dat(File(events).version6()).events().time.tolist() == [1000, 4000]

    def test_equal_times_are_in_the_order_of_the_cpus(self):
        events = [Event(set_p2m(n, n), cpu=cpu, time=1000)
                  for n, cpu in enumerate([1, 0, 1, 0])]
        assert read_dat(File(events).version7()).events().pfn.tolist() == [1, 3, 0, 2]

    def test_a_record_stays_behind_the_later_one_before_it(self):
        events = [Event(set_p2m(1, 1), time=9000), Event(set_p2m(2, 2), time=4000),
                  Event(set_p2m(3, 3), cpu=1, time=6000)]
        assert read_dat(File(events).version6()).events().pfn.tolist() == [3, 1, 2]

    @pytest.mark.parametrize(("option", "content", "added"), [
        (1, b"0x10\0", 16_000), (7, b"-250\0", -250),
        (14, (3).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(8), 500_000)])
    def test_offsets_and_counts_of_processors(self, option, content, added):
        events = [Event(set_p2m(1, 1), time=1_000_000)]
        for data in (File(events, [(option, content)]).version6(),
                     File(events, [(option, content)]).version7()):
            assert read_dat(data).events().time.tolist() == [1_000_000 + added]

    @EVERY_FORM
    def test_counts_without_a_unit_are_named(self, form):
        notes = read_dat(form(File(run(), clock="x86-tsc"))).notes
        assert any("counts without a unit" in note for note in notes)


class TestLosses:
    @EVERY_FORM
    @pytest.mark.parametrize(("missed", "count"), [(4805, 4805), (-1, 0xFFFFFFFF)])
    def test_a_page_says_how_many_events_were_lost(self, form, missed, count):
        events = [Event(set_p2m(1, 2), time=1000), Event(set_p2m(3, 4), cpu=1, time=2000),
                  Event(set_p2m(5, 6), time=3000, missed=missed)]
        trace = read_dat(form(File(events)))
        assert events_of(trace, "pfn", "cpu", "ref")[2] == ("lost", INVALID, 0, count)
        assert [kind for kind, in events_of(trace)] == ["set_p2m", "set_p2m", "lost", "set_p2m"]

    @pytest.mark.parametrize(("stat", "lost"), [
        ("CPU: 1\nentries: 0\noverrun: 7\ndropped events: 0\n", [("lost", 1, 7)]),
        ("CPU: 1\nentries: 0\noverrun: 0\ndropped events: 3\n", [("lost", 1, 3)]),
        ("CPU: 0\noverrun: 5\ndropped events: 0\n", []),  # which a page marks
    ])
    def test_losses_that_only_the_statistics_tell(self, stat, lost):
        events = [Event(set_p2m(1, 2), time=1000, missed=5),
                  Event(set_p2m(3, 4), cpu=1, time=2000)]
        trace = read_dat(File(events, [(2, stat.encode() + b"\0")]).version7())
        of_pages = [("lost", 0, 5)]
        assert [row for row in events_of(trace, "cpu", "ref") if row[0] == "lost"] == (
            of_pages + lost)


@st.composite
def histories(draw):
    """Maps and unmaps with their writes, of several tasks on two cpus."""
    time, events = 1_000_000, []
    pages = list(range(0x1000, 0x1008))
    for _ in range(draw(st.integers(1, 12))):
        chosen = draw(st.lists(st.sampled_from(pages), min_size=0, max_size=4, unique=True))
        grants = [Grant(pfn, draw(st.integers(0, 1 << 40)), draw(st.integers(0, 1 << 31)),
                        draw(st.integers(0, 1 << 32 - 1)),
                        draw(st.sampled_from([0, 0, -1, -3]))) for pfn in chosen]
        is_map, has_refs = draw(st.booleans()), draw(st.booleans())
        texts = [(map_refs if is_map else unmap_refs)(*grants)] if has_refs else []
        if draw(st.integers(0, 4)):
            texts.append((map_call if is_map else unmap_call)(
                *grants, kmap=draw(st.sampled_from([0, 0xFFFF888000000000]))))
        texts += [set_p2m(g.pfn, foreign(g.mfn) if is_map else INVALID)
                  for g in grants if g.status == 0]
        task = draw(st.sampled_from(["a-1", "b b-2", "<idle>-0"]))
        cpu = draw(st.integers(0, 1))
        for text in texts:
            time += draw(st.sampled_from([0, 1000, 1000, 10**9]))
            events.append(Event(text, task, cpu, time))
    return events


@given(histories().filter(bool), st.sampled_from(list(FORMS)))
def test_any_history_is_what_it_is_as_text(events, form):
    assert_same(read_dat(FORMS[form](File(events))), as_text(events))


class TestCaptures:
    """Files that trace-cmd wrote, without their kallsyms, and what it reports of them."""

    @staticmethod
    def trace(name: str) -> Trace:
        return read_dat(lzma.decompress((CAPTURES / f"{name}.dat.xz").read_bytes()))

    @staticmethod
    def report(name: str) -> Trace:
        text = lzma.decompress((CAPTURES / f"{name}.txt.xz").read_bytes())
        return read_ftrace(io.BytesIO(text), name)

    @staticmethod
    def assert_reported(found: Trace, report: Trace, rows: slice) -> None:
        """The report has the same rows; its times are rounded to microseconds."""
        ours: Events = found.events().rows(rows)
        theirs = report.events().rows(rows)
        assert len(ours) == len(theirs) > 300
        for name in COLUMNS:
            if name == "time":
                assert np.abs(ours.time - theirs.time).max() <= 500
            elif name == "task":
                assert [found.task_name(task) for task in ours.task.tolist()] == [
                    report.task_name(task) for task in theirs.task.tolist()]
            else:
                assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name

    def test_scalars_are_as_reported(self):
        found, report = self.trace("tcmd-phy-scalar"), self.report("tcmd-phy-scalar-report")
        assert found.tasks == report.tasks
        self.assert_reported(found, report, slice(None))
        assert (found.events().kind == Kind.MAP).sum() == 2384

    def test_arrays_are_as_reported_in_bytes(self):
        report = self.report("tcmd-phy-nopersist-report-R")
        whole = len(report.events()) - 8  # the last call's writes are cut off
        found = self.trace("tcmd-phy-nopersist-begin")
        self.assert_reported(found, report, slice(0, whole))

    def test_losses_are_as_reported(self):
        found = self.trace("v15-trace-cmd-extract-overrun")
        report = self.report("v15-trace-cmd-extract-overrun")
        of_text = [row for row in events_of(report, "cpu", "ref") if row[0] == "lost"]
        assert {("lost", 1, 4805), ("lost", 0, 4735)} <= set(of_text)
        assert [row for row in events_of(found, "cpu", "ref") if row[0] == "lost"] == of_text
        for kind in (Kind.MAP, Kind.UNMAP, Kind.P2M_WRITE, Kind.GRANT, Kind.END_GRANT):
            ours, theirs = (each.events().rows(each.events().kind == kind)
                            for each in (found, report))
            assert sorted(ours.pfn.tolist()) == sorted(theirs.pfn.tolist())


def test_no_event_in_the_main_buffer():
    with pytest.raises(InputError, match=r"trace.dat: no event in its main buffer; it also has "
                                         r"the buffers 'a'"):
        read_dat(File([], instances=["a"]).version6())
