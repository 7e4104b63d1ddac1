"""The header of a capture that `xenm2p capture` took: kernel, symbols, struct pages."""

from __future__ import annotations

import io

import pytest

from tests.test_captures import text_of
from xenm2p.formats.detect import format_of
from xenm2p.formats.ftrace import read_ftrace
from xenm2p.trace import Kind, Trace, same_trace

HEADER = "# xenm2p-capture: ftrace\n# kernel: 6.1.0-56-amd64\n"
SYMBOLS = "".join(f"# kallsyms: ffffffff8102{i:04x} T function_{i}\n" for i in range(60))


def read(text: str, base: int | None = None) -> Trace:
    return read_ftrace(io.BytesIO(text.encode()), "t.txt", vmemmap_base=base)


def line(task: str, seconds: float, event: str) -> str:
    return f"{task:>16}-42      [001] .....  {seconds:.6f}: {event}\n"


def unlock(folio: int) -> str:
    return line("mount", 100.0, "folio_unlock: (folio_unlock+0x0/0x20) "
                                f"folio=0x{folio:x} flags=0x1")


@pytest.mark.parametrize("name", ["gntdev-badref", "self-phy-persist"])
def test_a_header_changes_nothing_but_what_it_says(name: str) -> None:
    text = text_of(name)
    header = (HEADER + "# vmemmap_base: 0xffffea0000000000\n" + SYMBOLS).encode()
    plain = read_ftrace(io.BytesIO(text), name)
    known = read_ftrace(io.BytesIO(header + text), name)
    assert same_trace(plain, known)
    assert "kernel model p2m-only-continue: the header names Linux 6.1.0-56-amd64" in known.notes


def test_a_long_header_is_still_known_for_ftrace() -> None:
    text = HEADER + SYMBOLS + "# tracer: nop\n" + unlock(0)
    assert format_of(text.encode()[:1024]).name == "ftrace"
    perf = text.replace("capture: ftrace", "capture: perf")
    assert format_of(perf.encode()[:1024]).name == "perf"


def test_pages_are_counted_from_the_base_of_the_header() -> None:
    trace = read(HEADER + "# vmemmap_base: 0xfffff87f40000000\n" + unlock(0xFFFFF87F400B8500))
    assert trace.events().pfn.tolist() == [0x2E14]
    assert not any("struct pages" in note for note in trace.notes)


def test_a_base_that_is_given_goes_before_the_headers() -> None:
    text = HEADER + "# vmemmap_base: 0xfffff87f40000000\n" + unlock(0xFFFFEA0000040000)
    assert read(text, 0xFFFFEA0000000000).events().pfn.tolist() == [0x1000]


@pytest.mark.parametrize("base", ["", "none", "0x", "0", "0x1ffffffffffffffff", "-1x"])
def test_a_base_that_is_none_is_not_taken(base: str) -> None:
    trace = read(HEADER + f"# vmemmap_base: {base}\n" + unlock(0xFFFFEA0000040000))
    assert trace.events().pfn.tolist() == [0x1000]


def test_hits_that_the_kernel_missed_are_noted() -> None:
    text = HEADER + "# missed: end_access 523\n# missed: set_p2m none\n" + unlock(0)
    missed = [note for note in read(text).notes if note.startswith("the kernel missed")]
    assert missed == ["the kernel missed 523 hits of the probe end_access: nothing marks where"]


def test_symbols_tell_of_the_kernel_where_nothing_names_it() -> None:
    symbols = "# kallsyms: ffffffff812812b0 T folio_unlock\n"
    text = symbols + line("a", 1, "set_p2m: pfn=0x1 mfn=0x8000000000000002")
    assert any("page locks are folios" in note for note in read(text).notes)
    assert not any("page locks are folios" in note
                   for note in read(text.replace(" T ", " D ")).notes)


def override(page: int, pfn: int, mfn: int, seconds: float) -> str:
    return (line("blkback", seconds, "add_override: (m2p_add_override+0x0/0x100) "
                                     f"mfn=0x{mfn:x} page=0x{page:x}")
            + line("blkback", seconds, "set_p2m: (__set_phys_to_machine+0x0/0x100) "
                                       f"pfn=0x{pfn:x} mfn=0x{mfn | 1 << 63:x}"))


@pytest.mark.parametrize("size", [56, 64])
@pytest.mark.parametrize("base", [0xFFFFEA0000000000, 0xFFFFF87F40000000])
@pytest.mark.parametrize("says_base", [False, True])
def test_the_size_of_a_struct_page_shows_in_the_writes(
    size: int, base: int, says_base: bool
) -> None:
    pfns = [0x8003, 0x8011, 0x9002]
    text = (f"# kernel: 3.0.8\n# vmemmap_base: 0x{base:x}\n" if says_base
            else "# kernel: 3.0.8\n")
    text += "".join(override(base + size * pfn, pfn, 0x50000 + pfn, 100 + i)
                    for i, pfn in enumerate(pfns))
    text += line("mount", 200, "add_to_page_cache: (add_to_page_cache_locked+0x0/0x100) "
                               f"page=0x{base + size * 0x77:x}")
    trace = read(text)
    events = trace.events()
    maps = events.rows(events.kind == Kind.MAP)
    assert maps.pfn.tolist() == pfns
    assert maps.mfn.tolist() == [0x50000 + pfn for pfn in pfns]
    assert events.pfn[events.kind == Kind.LOCK_PAGE].tolist() == [0x77]
    assert any("56 bytes" in note for note in trace.notes) == (size == 56)
    assert trace.kernel == "override"


def test_a_return_that_names_an_address_is_known_by_its_events_name() -> None:
    """perf and trace-cmd print addresses, which may begin with a letter as names do."""
    at = line("blkback", 1, "set_p2m: (__set_phys_to_machine+0x0/0x100) pfn=0x1 "
                            "mfn=0x8000000000000002")
    returned = line("blkback", 2, "set_p2m_ret__return: (ffffffff8165db00 <- ffffffff81021d10) "
                                  "ret=1")
    assert not any("of other probes" in note for note in read(at + returned).notes)
