"""Files of single cpus, merged by time, are the capture they were taken apart from."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.ftrace_text import (
    Grant,
    events_of,
    foreign,
    line,
    map_call,
    map_refs,
    read,
    set_p2m,
    unmap_call,
)
from tests.formats.perf_text import as_perf
from xenm2p.errors import InputError
from xenm2p.formats.detect import read_trace
from xenm2p.formats.ftrace import read_ftrace_parts
from xenm2p.formats.ftrace_layouts import FTRACE, PERF, LineForm
from xenm2p.formats.parts import parts_of
from xenm2p.trace import INVALID, NO_REF, Trace

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
COLUMNS = ("time", "pfn", "mfn", "user", "domid", "ref", "handle", "status", "call", "cpu")


def merged(*texts: str | bytes, form: LineForm = FTRACE) -> Trace:
    """The trace of some texts as files cpu0.txt, cpu1.txt and so on."""
    data = [text.encode() if isinstance(text, str) else text for text in texts]
    return read_ftrace_parts([(io.BytesIO(part), f"cpu{cpu}.txt")
                              for cpu, part in enumerate(data)], form=form)


def rows_of(trace: Trace) -> list[tuple[object, ...]]:
    """All events with the names of their tasks."""
    return [(*row[:-1], trace.task_name(int(str(row[-1]))))
            for row in events_of(trace, *COLUMNS, "task")]


def apart(text: bytes) -> list[bytes]:
    """The event lines of each cpu; a line that is none goes where the one before it went."""
    parts, now = [b"", b""], 0
    for row in text.splitlines(keepends=True):
        now = 0 if b" [000] " in row[:60] else 1 if b" [001] " in row[:60] else now
        parts[now] += row
    return parts


@pytest.mark.parametrize("name", ["gntdev-badref", "tcmd-phy-scalar-report", "v7-clock-mono"])
def test_a_capture_taken_apart_by_cpu_is_the_same(name: str) -> None:
    """But for the order of events of two cpus within one tick of the clock."""
    text = lzma.decompress((CAPTURES / f"{name}.txt.xz").read_bytes())
    whole, parts = read(text), merged(*apart(text))
    assert sorted(map(str, without_call(parts))) == sorted(map(str, without_call(whole)))
    times = parts.events().time
    assert (np.diff(times[parts.events().kind != 13]) >= 0).all()


def without_call(trace: Trace) -> list[tuple[object, ...]]:
    """Events without the number of their call, which counts calls in order."""
    return [row[:9] + row[10:] for row in rows_of(trace)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=60),
       st.sampled_from([64, 200, 100_000]))
def test_any_lines_in_any_number_of_files(steps: list[tuple[int, int]], size: int) -> None:
    """Against the plain way: sort all lines by their time, cpu and place."""
    time, rows = 0, []
    for place, (cpu, step) in enumerate(steps):
        time += step
        rows.append((time, cpu, place, line(set_p2m(place, place), cpu=cpu, time=1 + time / 1000,
                                            task=f"t{cpu}-{cpu}")))
    texts = ["".join(row[3] for row in rows if row[1] == cpu) for cpu in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xenm2p.formats.ftrace_merge._LEAST_BLOCK", size)
        patch.setattr("xenm2p.formats.ftrace_merge.BLOCK_SIZE", size)
        trace = merged(*texts)
    assert trace.events().pfn.tolist() == [row[2] for row in sorted(rows)]
    assert rows_of(trace) == rows_of(read("".join(row[3] for row in sorted(rows))))


def test_the_order_within_a_file_is_kept_where_times_go_back() -> None:
    first = line(set_p2m(1, 1), time=5.0) + line(set_p2m(2, 2), time=3.0)
    other = line(set_p2m(3, 3), time=4.0) + line(set_p2m(4, 4), time=6.0)
    assert merged(first, other).events().pfn.tolist() == [3, 1, 2, 4]


def test_of_equal_times_the_first_file_comes_first() -> None:
    texts = ["".join(line(set_p2m(10 * cpu + i, 1), cpu=cpu) for i in range(3))
             for cpu in range(3)]
    assert merged(*texts).events().pfn.tolist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_a_call_may_move_to_another_cpu() -> None:
    grant = Grant(0x8FE02, 0xBDC01, ref=9)
    call, write = line(map_call(grant), cpu=0, time=2.0), line(
        set_p2m(grant.pfn, foreign(grant.mfn)), cpu=1, time=2.5)
    refs = line(map_refs(grant), cpu=1, time=1.5)
    trace = merged(call, refs + write)
    assert events_of(trace, "pfn", "ref", "call") == [
        ("map", 0x8FE02, 9, 0), ("p2m_write", 0x8FE02, NO_REF, 0)]


def test_losses_stay_before_the_next_line_of_their_file() -> None:
    one = line(set_p2m(1, 1), cpu=0, time=1.0) + "CPU:0 [LOST 7 EVENTS]\n" + line(
        set_p2m(2, 2), cpu=0, time=3.0)
    two = line(set_p2m(3, 3), cpu=1, time=2.0) + "CPU:1 [LOST 8 EVENTS]\n"
    assert events_of(merged(one, two), "cpu", "ref") == [
        ("set_p2m", 0, NO_REF), ("set_p2m", 1, NO_REF), ("lost", 0, 7), ("lost", 1, 8),
        ("set_p2m", 0, NO_REF)]


def test_headers_of_all_files_count() -> None:
    header = "# entries-in-buffer/entries-written: 2/{}   #P:2\n"
    trace = merged(header.format(12) + line(set_p2m(1, 1), cpu=0),
                   header.format(5) + line(set_p2m(2, 2), cpu=1))
    assert [row for row in events_of(trace, "cpu", "ref") if row[0] == "lost"] == [
        ("lost", 0, 10), ("lost", 1, 3)]


def test_tasks_are_shared() -> None:
    trace = merged(line(set_p2m(1, 1), cpu=0, time=1), line(set_p2m(2, 2), cpu=1, time=2))
    assert trace.tasks == ["0.xvda-0-2656"]


def test_notes_name_the_file_that_they_are_of() -> None:
    notes = merged(line(set_p2m(1, 1)) + "words\n", line(set_p2m(2, 2), cpu=1)).notes
    assert "merged by time: cpu0.txt, cpu1.txt" in notes
    assert ("cpu0.txt: 1 lines are no ftrace events and were left out, the first is line 2"
            in notes)


@pytest.mark.parametrize("place", [0, 1])
def test_an_error_names_the_file_and_its_line(place: int) -> None:
    good = "".join(line(set_p2m(i, i), time=1 + i) for i in range(5))
    wrong = good + line("set_p2m: (__set_phys_to_machine+0x0/0x180) pfn=0x1", time=3.5)
    texts = [wrong, good] if place == 0 else [good, wrong]
    with pytest.raises(InputError, match=rf"^cpu{place}\.txt:6: set_p2m: 'mfn' is missing"):
        merged(*texts)


def test_an_error_of_a_line_itself_names_its_file() -> None:
    with pytest.raises(InputError, match=r"^cpu1\.txt:2: cpu 99999"):
        merged(line(set_p2m(1, 1)),
               line(set_p2m(1, 1)) + line(set_p2m(1, 1)).replace("[001]", "[99999]"))


def test_different_clocks_are_not_merged() -> None:
    ticks = f"           <...>-6399    [001] ...1. 4697363197989: {set_p2m(1, 1)}\n"
    with pytest.raises(InputError, match=r"cpu1\.txt: its times count something other"):
        merged(line(set_p2m(1, 1)), ticks)


def test_files_without_an_event() -> None:
    assert len(merged("# tracer: nop\n", line(set_p2m(1, 1))).events()) == 1
    with pytest.raises(InputError, match=r"cpu0\.txt, cpu1\.txt: no ftrace event in it"):
        merged("# tracer: nop\n", "# tracer: nop\n")


def test_perf_script_of_single_cpus() -> None:
    text = b"".join(line(row, cpu=i % 2, time=1 + i).encode() for i, row in enumerate([
        map_call(Grant(5, 6)), set_p2m(5, foreign(6)), unmap_call(Grant(5)),
        set_p2m(5, INVALID)]))
    parts = [as_perf(part) for part in apart(text)]
    assert rows_of(merged(*parts, form=PERF)) == rows_of(read(text))


class TestNames:
    """Which files of a directory are single cpus'."""

    def test_folders_of_tracefs(self, tmp_path: Path) -> None:
        for cpu in (0, 1, 10, 2):
            folder = tmp_path / "per_cpu" / f"cpu{cpu}"
            folder.mkdir(parents=True)
            (folder / "trace").write_text(line(set_p2m(cpu, 1), cpu=cpu))
            (folder / "trace_pipe").write_text("never to be opened")
        expected = [str(tmp_path / "per_cpu" / f"cpu{cpu}" / "trace") for cpu in (0, 1, 2, 10)]
        assert parts_of(str(tmp_path)) == expected
        assert parts_of(str(tmp_path / "per_cpu")) == expected
        assert read_trace(str(tmp_path)).events().pfn.tolist() == [0, 1, 2, 10]

    def test_files_with_the_cpu_in_their_names(self, tmp_path: Path) -> None:
        for name in ("trace.cpu10.txt", "trace.cpu2.txt.xz", "p2m.txt", ".cpu3"):
            (tmp_path / name).write_text("")
        assert [Path(part).name for part in parts_of(str(tmp_path))] == [
            "trace.cpu2.txt.xz", "trace.cpu10.txt"]

    def test_two_files_of_a_cpu(self, tmp_path: Path) -> None:
        for name in ("cpu1.txt", "old-cpu1.txt"):
            (tmp_path / name).write_text("")
        with pytest.raises(InputError, match=r"two files of cpu 1: cpu1\.txt and old-cpu1\.txt"):
            parts_of(str(tmp_path))

    def test_a_directory_without_such(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="is a directory without files of single cpus"):
            parts_of(str(tmp_path))

    @pytest.mark.parametrize("name", ["-", "nowhere", "a\0b"])
    def test_other_names_stand_for_themselves(self, name: str) -> None:
        assert parts_of(name) == [name]


def test_a_cpu_without_a_line_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "cpu0.txt").write_text("")
    (tmp_path / "cpu1.txt").write_text(line(set_p2m(1, 1)))
    assert len(read_trace(str(tmp_path)).events()) == 1
    (tmp_path / "cpu1.txt").write_text("")
    with pytest.raises(InputError, match=r"cpu0\.txt: the file is empty"):
        read_trace(str(tmp_path))


def test_only_text_of_one_tracer_is_merged(tmp_path: Path) -> None:
    (tmp_path / "cpu0.txt").write_text(line(set_p2m(1, 1)))
    (tmp_path / "cpu1.txt").write_bytes(as_perf(line(set_p2m(1, 1)).encode()))
    with pytest.raises(InputError, match=r"cpu1\.txt: is perf and .*cpu0\.txt is ftrace"):
        read_trace(str(tmp_path))
    (tmp_path / "cpu1.txt").write_text("format: xenm2p-trace\nversion: 1\nevents: []\n")
    with pytest.raises(InputError, match=r"cpu1\.txt: is yaml, which is not merged"):
        read_trace(str(tmp_path))
