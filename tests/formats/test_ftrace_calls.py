"""Map and unmap calls: their arrays, their two lines, and the writes that belong to them."""

from __future__ import annotations

import pytest

from tests.formats.ftrace_text import (
    FOREIGN,
    INVALID,
    Grant,
    events_of,
    foreign,
    kinds_of,
    line,
    map_call,
    map_refs,
    page_of,
    read,
    set_p2m,
    unmap_call,
    unmap_refs,
)
from xenm2p.errors import InputError
from xenm2p.trace import NO_CALL, NO_DOMID, NO_HANDLE, NO_REF

G = Grant(0x8FE02, 0xBDC01, ref=1, handle=0x4AF, domid=1)
H = Grant(0x8FE03, 0xBDC02, ref=2, handle=0x4B0, domid=1)


def many(count: int) -> list[Grant]:
    """Grants of pages of their own."""
    return [Grant(0x1000 + i, 0x5000 + i, ref=100 + i, handle=200 + i) for i in range(count)]


def writes(grants: list[Grant], **given: object) -> str:
    """The p2m writes of a map of `grants`."""
    return "".join(line(set_p2m(g.pfn, foreign(g.mfn)), **given) for g in grants)


def unwrites(grants: list[Grant], **given: object) -> str:
    """The p2m writes of an unmap of `grants`."""
    return "".join(line(set_p2m(g.pfn, INVALID), **given) for g in grants)


def test_a_map_call_gives_one_map_a_page() -> None:
    trace = read(line(map_call(G, H)) + writes([G, H]))
    assert events_of(trace, "pfn", "mfn", "domid", "ref", "handle", "status", "user") == [
        ("map", 0x8FE02, 0xBDC01, 1, 1, 0x4AF, 0, 0),
        ("map", 0x8FE03, 0xBDC02, 1, 2, 0x4B0, 0, 0),
        ("p2m_write", 0x8FE02, foreign(0xBDC01), NO_DOMID, NO_REF, NO_HANDLE, 0, 0),
        ("p2m_write", 0x8FE03, foreign(0xBDC02), NO_DOMID, NO_REF, NO_HANDLE, 0, 0),
    ]


def test_an_unmap_call_gives_one_unmap_a_page() -> None:
    trace = read(line(unmap_call(G, H)) + unwrites([G, H]))
    assert events_of(trace, "pfn", "handle", "ref", "status")[:2] == [
        ("unmap", 0x8FE02, 0x4AF, NO_REF, 0), ("unmap", 0x8FE03, 0x4B0, NO_REF, 0)]


def test_events_of_one_call_share_its_number() -> None:
    text = (line(map_refs(G, H)) + line(map_call(G, H)) + writes([G, H])
            + line(unmap_refs(G)) + line(unmap_call(G)) + unwrites([G]))
    assert read(text).events().call.tolist() == [0, 0, 0, 0, 1, 1]


def test_kmap_ops_make_a_share_of_user_space() -> None:
    trace = read(line(map_call(G, kmap=0xFFFF888008E94FA0)) + line(unmap_call(G, kmap=1 << 40)))
    assert events_of(trace, "user") == [("map", 1), ("unmap", 1)]


def test_map_refs_and_set_foreign_are_one_call() -> None:
    stale = Grant(G.pfn, 0x123, ref=1, handle=0x999, status=1, domid=1)
    trace = read(line(map_refs(stale)) + line(map_call(G)) + writes([G]))
    assert events_of(trace, "mfn", "handle") == [
        ("map", 0xBDC01, 0x4AF), ("p2m_write", foreign(0xBDC01), NO_HANDLE)]


def test_slots_beyond_count_are_stale() -> None:
    trace = read(line(map_call(G, H, count=1)) + writes([G]))
    assert kinds_of(trace) == ["map", "p2m_write"]


def test_a_count_of_0_gives_nothing() -> None:
    text = line(unmap_refs(G, H, count=0)) + line(unmap_call(G, H, count=0)) + line(map_call(G))
    assert kinds_of(read(text)) == ["map"]


@pytest.mark.parametrize("status", [-1, -3, -9])
def test_a_failed_map_has_its_status_and_no_frame(status: int) -> None:
    bad = Grant(0x8FE04, 0x999, ref=700, handle=0xFFFFFFFF, status=status)
    trace = read(line(map_call(G, bad, H)) + writes([G, H]))
    assert events_of(trace, "pfn", "mfn", "status", "ref")[1] == (
        "map", 0x8FE04, INVALID, status, 700)
    assert kinds_of(trace) == ["map"] * 3 + ["p2m_write"] * 2


def test_a_failed_unmap_has_its_status() -> None:
    trace = read(line(unmap_call(Grant(0x8FE04, handle=0xFFFFFFFF, status=-7))))
    assert events_of(trace, "handle", "status") == [("unmap", NO_HANDLE, -7)]


def test_a_failed_map_that_the_machine_made_foreign_is_still_seen() -> None:
    bad = Grant(0x8FE04, 0x999, status=-1)
    trace = read(line(map_call(bad)) + writes([bad]))
    assert kinds_of(trace) == ["map", "p2m_write"]


def test_pages_beyond_the_array_come_from_the_writes() -> None:
    grants = many(16)
    trace = read(line(map_call(*grants, kmap=1 << 40)) + writes(grants))
    rows = events_of(trace, "pfn", "mfn", "user", "domid", "ref", "call")
    maps = [row for row in rows if row[0] == "map"]
    assert [row[1:3] for row in maps] == [(g.pfn, g.mfn) for g in grants]
    assert {row[3] for row in maps} == {1}
    assert {row[4] for row in maps} == {0}  # shared by the call
    assert [row[5] for row in maps[11:]] == [NO_REF] * 5
    assert {row[6] for row in rows} == {0}
    assert [row[0] for row in rows].count("p2m_write") == 16


def test_unmapped_pages_beyond_the_array_come_from_the_writes() -> None:
    grants = many(32)
    trace = read(line(unmap_call(*grants)) + unwrites(grants))
    rows = events_of(trace, "pfn", "call")
    assert [row for row in rows if row[0] == "unmap"] == [("unmap", g.pfn, 0) for g in grants]
    assert [row[0] for row in rows].count("p2m_write") == 32


def test_a_write_beyond_a_calls_count_is_nobodys() -> None:
    grants = many(13)
    text = line(unmap_call(*grants)) + unwrites(grants) + line(set_p2m(0x77, INVALID))
    assert events_of(read(text), "pfn", "call")[-1] == ("set_p2m", 0x77, NO_CALL)


def test_a_write_after_the_call_returned_is_nobodys() -> None:
    grants = many(13)
    back = "clear_foreign_ret: (gnttab_unmap_refs+0x40/0x70 <- clear_foreign_p2m_mapping) ret=0"
    text = line(unmap_call(*grants)) + unwrites(grants[:12]) + line(back) + unwrites(grants[12:])
    trace = read(text)
    assert events_of(trace, "pfn")[-1] == ("set_p2m", grants[12].pfn)
    assert any("1 pages of calls are not in the capture" in note for note in trace.notes)


def test_ballooning_is_no_call() -> None:
    text = (line(map_call(G)) + writes([G])
            + line(set_p2m(0x5000, INVALID), task="kworker/1:2-66")
            + line(set_p2m(0x5000, 0x43BE6), task="kworker/1:2-66"))
    assert events_of(read(text), "pfn", "mfn")[2:] == [
        ("set_p2m", 0x5000, INVALID), ("set_p2m", 0x5000, 0x43BE6)]


def test_calls_of_two_cpus_interleave() -> None:
    one, other = many(13), [Grant(g.pfn + 64, g.mfn + 64) for g in many(13)]
    text = (line(map_call(*one), task="a-1", cpu=0) + line(map_call(*other), task="b-2", cpu=1)
            + "".join(writes([a], task="a-1", cpu=0) + writes([b], task="b-2", cpu=1)
                      for a, b in zip(one, other, strict=True)))
    rows = events_of(read(text), "pfn", "call")
    of_call = {pfn: call for kind, pfn, call in rows if kind == "map"}
    assert of_call == {g.pfn: 0 for g in one} | {g.pfn: 1 for g in other}
    assert "set_p2m" not in {row[0] for row in rows}


def test_pid_0_is_a_task_of_each_cpu() -> None:
    one, other = many(13), [Grant(g.pfn + 64, g.mfn + 64) for g in many(13)]
    text = (line(unmap_call(*one), task="<idle>-0", cpu=0)
            + line(unmap_call(*other), task="<idle>-0", cpu=1)
            + unwrites(one, task="<idle>-0", cpu=0) + unwrites(other, task="<idle>-0", cpu=1))
    rows = events_of(read(text), "pfn", "call")
    assert {pfn: call for kind, pfn, call in rows if kind == "unmap"} == (
        {g.pfn: 0 for g in one} | {g.pfn: 1 for g in other})


def test_an_unmap_in_an_interrupt_does_not_end_the_map_under_it() -> None:
    grants = many(13)
    text = (line(map_call(*grants)) + writes(grants[:12]) + line(unmap_call(G)) + unwrites([G])
            + writes(grants[12:]))
    assert kinds_of(read(text)).count("map") == 13
    assert "set_p2m" not in kinds_of(read(text))


def test_an_end_of_access_in_an_interrupt_does_not_end_the_call_under_it() -> None:
    grants = many(12)
    end = "end_access: (gnttab_end_foreign_access_ref_v1+0x0/0x40) ref=744"
    text = line(map_call(*grants)) + writes(grants[:11]) + line(end) + writes(grants[11:])
    assert kinds_of(read(text)).count("map") == 12


def test_calls_are_paired_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    grants = many(14)
    text = (line(map_refs(*grants)) + line(map_call(*grants)) + writes(grants)
            + line(unmap_refs(*grants)) + line(unmap_call(*grants)) + unwrites(grants)) * 2
    whole = events_of(read(text), "pfn", "mfn", "call", "handle")
    for size in (1, 500, 1500, 3000):
        monkeypatch.setattr("xenm2p.formats.ftrace_lines.BLOCK_SIZE", size)
        assert events_of(read(text), "pfn", "mfn", "call", "handle") == whole


def test_without_a_probe_after_the_hypercall_unmap_refs_is_the_unmap() -> None:
    trace = read(line(unmap_refs(G, H)) + unwrites([G, H]))
    assert kinds_of(trace) == ["unmap", "unmap", "p2m_write", "p2m_write"]


def test_without_a_probe_after_the_hypercall_frames_come_from_the_writes() -> None:
    stale = Grant(G.pfn, 0x123, ref=9, status=1, domid=1)
    trace = read(line(map_refs(stale)) + writes([G]))
    assert events_of(trace, "pfn", "mfn", "ref", "domid", "status") == [
        ("map", G.pfn, G.mfn, 9, 1, 0),
        ("p2m_write", G.pfn, foreign(G.mfn), NO_REF, NO_DOMID, 0)]


def test_a_call_whose_second_line_was_lost_needs_its_writes() -> None:
    text = line(unmap_call(H)) + line(unmap_refs(G)) + line(unmap_refs(H)) + unwrites([H])
    assert [row for row in events_of(read(text), "pfn") if row[0] == "unmap"] == [
        ("unmap", H.pfn), ("unmap", H.pfn)]


def test_pages_at_another_base_are_found_by_their_writes() -> None:
    base = 0xFFFFF0AC40000000
    grants = many(3)
    trace = read(line(map_call(*grants, base=base)) + writes(grants))
    assert [row for row in events_of(trace, "pfn") if row[0] == "map"] == [
        ("map", g.pfn) for g in grants]
    assert any("struct pages begin at 0xfffff0ac40000000" in note for note in trace.notes)


def test_pages_that_cannot_be_are_not_taken_for_such() -> None:
    """Without a write to find the base by, a pointer far off gives no event."""
    trace = read(line(map_call(G, base=0xFFFFF0AC40000000)))
    assert kinds_of(trace) == []
    assert any("1 pages of calls are not in the capture" in note for note in trace.notes)


def scalars(*grants: Grant, count: int, address: str = "ffffffff81021ed0") -> str:
    """A map call as tcmd-phy-scalar's probes fetch it."""
    fields = "".join(
        f" r{i}={g.ref} h{i}={g.handle} a{i}=0x{g.mfn << 12:x} p{i}=0x{page_of(g.pfn):x}"
        for i, g in enumerate(grants))
    rest = "".join(f" r{i}=0 h{i}=0 a{i}=0x0 p{i}=0x0" for i in range(len(grants), 11))
    return (f"set_foreign:          ({address}) count={count} kmap_ops=0x0 dom=0 status=0 "
            f"flags=0x2{fields}{rest}")


def test_scalar_arguments_of_each_page() -> None:
    trace = read(line(scalars(G, H, count=2)) + writes([G, H]))
    assert events_of(trace, "pfn", "mfn", "ref", "handle")[:2] == [
        ("map", G.pfn, G.mfn, 1, 0x4AF), ("map", H.pfn, H.mfn, 2, 0x4B0)]


def test_a_scalar_page_that_the_call_passed_over_was_refused() -> None:
    trace = read(line(scalars(G, Grant(0x99, 0x123), H, count=3)) + writes([G, H]))
    assert events_of(trace, "pfn", "mfn", "status")[1] == ("map", 0x99, INVALID, -1)


def test_scalar_unmaps_have_their_pages_from_the_line_before() -> None:
    before = "unmap_refs: (ffffffff8165da90) count=2 kunmap_ops=0x0" + "".join(
        f" h{i}={g.handle} p{i}=0x{page_of(g.pfn):x}" for i, g in enumerate((G, H)))
    text = line(before) + line("clear_foreign: (ffffffff810221d0) count=2") + unwrites([G, H])
    assert events_of(read(text), "pfn", "handle")[:2] == [
        ("unmap", G.pfn, 0x4AF), ("unmap", H.pfn, 0x4B0)]


def test_one_page_under_its_ops_own_names() -> None:
    mapped = (f"set_foreign: (set_foreign_p2m_mapping+0x0/0x300) count=1 host_addr=0x1 "
              f"flags=0x2 ref=468 dom=3 status=0 handle=1331 dev_bus_addr=0x424df000 "
              f"page0=0x27ffffc0003400 pagep=0x{page_of(0x8FFA7):x}")
    ended = "clear_foreign: (clear_foreign_p2m_mapping+0x0/0x160) count=1 handle=1331 status=0"
    text = (line(mapped) + line(set_p2m(0x8FFA7, foreign(0x424DF)))
            + line(ended) + line(set_p2m(0x8FFA7, INVALID)))
    assert events_of(read(text), "pfn", "mfn", "ref", "handle", "domid") == [
        ("map", 0x8FFA7, 0x424DF, 468, 1331, 3),
        ("p2m_write", 0x8FFA7, foreign(0x424DF), NO_REF, NO_HANDLE, NO_DOMID),
        ("unmap", 0x8FFA7, INVALID, NO_REF, 1331, NO_DOMID),
        ("p2m_write", 0x8FFA7, INVALID, NO_REF, NO_HANDLE, NO_DOMID),
    ]


def test_flags_tell_user_space_where_kmap_ops_were_not_fetched() -> None:
    call = ("set_foreign: (set_foreign_p2m_mapping+0x0/0x300) count=1 flags=0x1a ref=1 dom=0 "
            f"handle=5 dev_bus_addr=0x424df000 pagep=0x{page_of(0x99):x}")
    end = "clear_foreign: (clear_foreign_p2m_mapping+0x0/0x160) count=1 handle=5"
    text = line(call) + line(end) + line(set_p2m(0x99, INVALID))
    # the unmap, which has no flags, is of the sort that its map was
    assert events_of(read(text), "user")[:2] == [("map", 1), ("unmap", 1)]


def as_bytes(call: str) -> str:
    """A call as ``trace-cmd report -R`` prints it: arrays of bytes."""
    words = []
    for word in call.split(" "):
        name, is_array, values = word.partition("={")
        if is_array:
            octets = b"".join(int(v, 16).to_bytes(8, "little") for v in values[:-1].split(","))
            word = f"{name}=ARRAY[{', '.join(f'{octet:02x}' for octet in octets)}]"
        words.append(word)
    return " ".join(words)


def test_raw_arrays_are_bytes() -> None:
    before, after = (as_bytes(call(G, H, event=f"{name}:      __probe_ip=ffffffff81021ed0"))
                     for call, name in ((map_call, "set_foreign"), (unmap_call, "clear_foreign")))
    text = line(before) + writes([G, H]) + line(after) + unwrites([G, H])
    plain = line(map_call(G, H)) + writes([G, H]) + line(unmap_call(G, H)) + unwrites([G, H])
    columns = ("pfn", "mfn", "ref", "handle", "domid", "call", "time")
    assert events_of(read(text), *columns) == events_of(read(plain), *columns)


def test_arrays_of_zeros_leave_the_writes() -> None:
    call = map_call(G, H)
    blank = call[: call.index(" op=")] + " op={" + ",".join(["0x0"] * 44) + "} page={" + ",".join(
        ["0x0"] * 11) + "}"
    trace = read(line(blank) + writes([G, H]))
    assert events_of(trace, "pfn", "mfn", "ref", "user")[::2] == [
        ("map", G.pfn, G.mfn, NO_REF, 0), ("map", H.pfn, H.mfn, NO_REF, 0)]
    assert any("trace-cmd report -R prints the data" in note for note in trace.notes)


def test_a_probe_without_count_leaves_the_writes() -> None:
    call = "set_foreign: (set_foreign_p2m_mapping+0x0/0x300) map_ops=0xffffc90040867bf0"
    trace = read(line(call) + writes([G, H]))
    assert kinds_of(trace) == ["map", "p2m_write", "map", "p2m_write"]


def test_default_argument_names_are_by_place() -> None:
    call = map_call(G).replace("map_ops=", "arg1=", 1).replace(" kmap_ops=", " arg2=").replace(
        " pages=", " arg3=").replace("count=", "arg4=").replace(" op=", " arg5=").replace(
        " page=", " arg6=")
    assert events_of(read(line(call) + writes([G])), "pfn", "mfn", "ref")[0] == (
        "map", G.pfn, G.mfn, 1)


def test_a_fault_in_an_array_leaves_the_writes() -> None:
    call = map_call(G)
    faulty = call[: call.index(" op=")] + " op=(fault) page=(fault)"
    assert kinds_of(read(line(faulty) + writes([G]))) == ["map", "p2m_write"]


def test_a_count_that_cannot_be_is_an_error() -> None:
    with pytest.raises(InputError, match=r"capture\.txt:1: set_foreign: count 4294967295"):
        read(line(map_call(G, count=0xFFFFFFFF)))


OVERRIDE = "add_override: (m2p_add_override+0x0/0x200)"


def test_overrides_of_old_kernels_are_the_maps() -> None:
    add = f"{OVERRIDE} mfn=0xbdc01 page=0x{page_of(G.pfn):x} kmap_op=0xffff888008e94fa0"
    remove = ("remove_override: (m2p_remove_override+0x0/0x200) "
              f"page=0x{page_of(G.pfn):x} kmap_op=0x0")
    text = (line(map_refs(G)) + line(add) + line(set_p2m(G.pfn, foreign(0xBDC01)))
            + line(remove) + line(set_p2m(G.pfn, 0x4444)))
    trace = read(text)
    assert events_of(trace, "pfn", "mfn", "user", "ref", "domid") == [
        ("map", G.pfn, 0xBDC01, 1, 1, 1),
        ("p2m_write", G.pfn, foreign(0xBDC01), 0, NO_REF, NO_DOMID),
        ("unmap", G.pfn, INVALID, 0, NO_REF, NO_DOMID),
        ("p2m_write", G.pfn, 0x4444, 0, NO_REF, NO_DOMID),
    ]


def test_a_marked_frontend_entry_is_its_maps_write() -> None:
    add = f"{OVERRIDE} mfn=0xbdc01 page=0x{page_of(G.pfn):x} kmap_op=0x1"
    remove = f"remove_override: (m2p_remove_override+0x0/0x200) page=0x{page_of(G.pfn):x}"
    text = (line(add) + line(set_p2m(G.pfn, foreign(0xBDC01)))
            + line(set_p2m(0x1010, foreign(0xBDC01)))
            + line(remove) + line(set_p2m(G.pfn, INVALID)) + line(set_p2m(0x1010, 0xBDC01)))
    trace = read(text)
    assert kinds_of(trace) == ["map", "p2m_write", "p2m_write", "unmap", "p2m_write", "p2m_write"]
    assert trace.kernel == "local-foreign"


def test_an_override_within_a_call_is_not_a_second_map() -> None:
    add = f"{OVERRIDE} mfn=0xbdc01 page=0x{page_of(G.pfn):x} kmap_op=0x1"
    trace = read(line(map_refs(G)) + line(map_call(G, kmap=1)) + writes([G]) + line(add))
    assert kinds_of(trace) == ["map", "p2m_write"]
    assert trace.kernel == "kmap-only"


def test_writes_alone_are_maps_and_unmaps() -> None:
    text = (line(set_p2m(0x99, FOREIGN | 0x5)) + line(set_p2m(0x99, FOREIGN | 0x6))
            + line(set_p2m(0x99, INVALID)) + line(set_p2m(0x99, 0x7)))
    trace = read(text)
    assert events_of(trace, "mfn") == [
        ("map", 0x5), ("p2m_write", FOREIGN | 0x5),
        ("unmap", INVALID), ("map", 0x6), ("p2m_write", FOREIGN | 0x6),
        ("unmap", INVALID), ("p2m_write", INVALID),
        ("set_p2m", 0x7),
    ]
    assert any("no map or unmap call was captured" in note for note in trace.notes)


def test_a_write_after_anothers_of_the_page_is_of_a_later_call() -> None:
    """The unmap's own write was lost, and with it the call of the next unmap of the page."""
    text = (line(map_call(G)) + writes([G])
            + line(unmap_call(G), task="ksoftirqd/0-14")
            + line(map_call(G), task="other-7") + writes([G], task="other-7")
            + line(set_p2m(G.pfn, INVALID), task="ksoftirqd/0-14"))
    trace = read(text)
    events = events_of(trace, "mfn")
    assert events[-1] == ("set_p2m", INVALID)
    assert ("lost", INVALID) in events


def test_symbols_tell_the_kernel_before_writes_do() -> None:
    """A write that seems to be a marked frontend page, in a capture of a kernel with folios."""
    text = (line("folio_unlock: (folio_unlock+0x0/0x20) folio=0xffffea0000998180 flags=0x5")
            + line(map_call(G)) + writes([G]) + line(set_p2m(0x1234, foreign(G.mfn))))
    assert read(text).kernel == "p2m-only-continue"
    assert "folios" in " ".join(read(text).notes)
