"""trace.dat: where things are in the file, of both versions that trace-cmd has written.

Version 6 has its parts one after the other; version 7 has sections, of which chained
sections of options tell the offsets. After trace-cmd.dat.v6(5) and trace-cmd.dat.v7(5),
and what trace-cmd 3.1 writes: the size in a section's head has eight bytes, and the option
of a buffer may have the size of its pages before the number of cpus.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from xenm2p.errors import InputError
from xenm2p.formats.tracedat_codecs import Codec, codec_named
from xenm2p.formats.tracedat_cursor import Cursor, unpack

MAGIC = b"\x17\x08Dtracing"
_SECTION_HEAD = 16
_COMPRESSED = 1
# Numbers of sections, and of the options that tell where they are
_DATE, _CPUSTAT, _BUFFER, _TRACECLOCK, _UNAME, _OFFSET, _CPUCOUNT, _TIME_SHIFT, _TSC2NSEC = (
    1, 2, 3, 4, 5, 7, 8, 12, 14)
_HEADER_INFO, _FTRACE_EVENTS, _EVENT_FORMATS, _KALLSYMS, _PRINTK, _CMDLINES, _BUFFER_TEXT = (
    16, 17, 18, 19, 20, 21, 22)
_NAMES = {_HEADER_INFO: "header info", _FTRACE_EVENTS: "ftrace event formats",
          _EVENT_FORMATS: "event formats", _KALLSYMS: "kallsyms", _CMDLINES: "command lines"}
_MAX_CPUS = 1 << 15  # more than the cpu column of a trace has
_PAGE_SIZES = frozenset(1 << shift for shift in range(12, 23))


@dataclass(frozen=True, slots=True)
class CpuData:
    """The pages of one cpu's ring buffer: where they are in the file, as they are there."""

    cpu: int
    offset: int
    size: int


@dataclass(slots=True)
class Layout:
    """What a file says of itself, and where the events of its main buffer are.

    `formats` are the texts of event formats with their systems; `page_size` is that of the
    ring buffer's pages. `codec` unpacks chunks of the data where they are compressed.
    `clock` is the tracer's; a time is ``(count * mult >> shift) + offset``, where `mult`
    is not 0. `stats` are the tracer's counts of each cpu, as text; `others` the names of
    other buffers in the file.
    """

    source: str
    version: int
    page_size: int
    header_page: bytes = b""
    formats: list[tuple[str, bytes]] = field(default_factory=list)
    kallsyms: bytes = b""
    cmdlines: bytes = b""
    uname: str = ""
    clock: str = ""
    mult: int = 0
    shift: int = 0
    offset: int = 0
    is_shifted: bool = False
    stats: list[str] = field(default_factory=list)
    cpus: list[CpuData] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    codec: Codec | None = None
    is_latency: bool = False
    has_buffer: bool = False


def read_layout(data: memoryview, source: str) -> Layout:
    """Everything of a file but its events. Raises InputError, naming the byte."""
    cursor = Cursor(data, source, "the file's header")
    if cursor.take(len(MAGIC)) != MAGIC:
        raise InputError("is no trace.dat of trace-cmd", source=source, place="byte 0")
    version = cursor.string(16)
    if version not in ("6", "7"):
        raise InputError(f"is a trace.dat of version {ascii(version)[:12]}: only 6 and 7 are "
                         "read", source=source, place=f"byte {len(MAGIC)}")
    place = cursor.place
    if cursor.number(1) != 0:
        raise InputError("is of a big-endian machine, which no Xen PV domain is",
                         source=source, place=place)
    cursor.number(1)  # the size of user space's long
    place = cursor.place
    layout = Layout(source, int(version), cursor.number(4))
    if layout.page_size not in _PAGE_SIZES:
        raise InputError(f"pages of {layout.page_size} bytes are not known", source=source,
                         place=place)
    if version == "6":
        _read_in_order(cursor, layout)
    else:
        _read_sections(cursor, layout)
    if not layout.has_buffer:
        raise InputError("holds the text of a latency tracer, no events: give the output of "
                         "`trace-cmd report`", source=source)
    _page_layout(layout)
    return layout


# Version 6

def _read_in_order(cursor: Cursor, layout: Layout) -> None:
    cursor.what = "header info"
    _header_info(cursor, layout)
    cursor.what = "ftrace event formats"
    _ftrace_formats(cursor, layout)
    cursor.what = "event formats"
    _event_formats(cursor, layout)
    cursor.what = "kallsyms"
    layout.kallsyms = cursor.text(4)
    cursor.what = "printk formats"
    cursor.text(4)
    cursor.what = "command lines"
    layout.cmdlines = cursor.text(8)
    cursor.what = "cpu count"
    count = cursor.number(4)
    kind = cursor.take(10)
    has_clock = False
    if kind.startswith(b"options"):
        cursor.what = "options"
        while (option := cursor.number(2)) != 0:
            content = _option_content(cursor)
            has_clock |= option == _TRACECLOCK
            if option == _CPUCOUNT:
                count = content.number(4)
            elif option == _BUFFER:
                content.number(8)
                layout.others.append(content.string())
            else:
                _plain_option(option, content, layout)
        kind = cursor.take(10)
    layout.is_latency = kind.startswith(b"latency")
    layout.has_buffer = kind.startswith(b"flyrecord")
    if not layout.is_latency and not layout.has_buffer:
        cursor.at -= 10
        raise cursor.error(f"'flyrecord' should follow and {ascii(kind)[1:]} does")
    if layout.is_latency:
        return
    cursor.what = "table of the cpus' data"
    if count > _MAX_CPUS:
        raise cursor.error(f"{count} cpus are more than can be")
    layout.cpus = [CpuData(cpu, cursor.number(8), cursor.number(8)) for cpu in range(count)]
    if has_clock:
        layout.clock = _clock_after_table(cursor) or layout.clock


def _clock_after_table(cursor: Cursor) -> str:
    """The clock, as text with its size; some trace-cmds wrote something else there."""
    try:
        return _clock_in(cursor.text(8))
    except InputError:
        return ""


# Version 7

def _read_sections(cursor: Cursor, layout: Layout) -> None:
    place = cursor.place
    codec_name = cursor.string()
    cursor.string()  # the version of its library
    codec = codec_named(codec_name, layout.source, place)
    sections: dict[int, int] = {}
    data_offset = 0
    first = offset = cursor.number(8)
    visited: set[int] = set()
    while offset:
        if offset in visited:
            raise InputError("options: the chain of these sections comes back to itself",
                             source=layout.source, place=f"byte {offset}")
        visited.add(offset)
        options = _section(cursor.data, offset, 0, "options", codec, layout.source)
        offset = 0
        while options.left:
            option = options.number(2)
            content = _option_content(options)
            if option == 0:
                offset = content.number(8)
                break
            if option == _BUFFER:
                data_offset = _buffer_option(content, layout) or data_offset
            elif option == _BUFFER_TEXT:
                layout.is_latency = True
            elif option in _NAMES:
                sections[option] = content.number(8)
            else:
                _plain_option(option, content, layout)
    if not layout.has_buffer and not layout.is_latency:
        raise InputError("the options name no section with the events of the main buffer",
                         source=layout.source, place=f"byte {first}")
    if layout.has_buffer:
        flags = _head(cursor.data, data_offset, _BUFFER, "buffer", layout.source)[0]
        if flags & _COMPRESSED:
            if codec is None:
                raise InputError("buffer: is compressed, and the header names no codec",
                                 source=layout.source, place=f"byte {data_offset}")
            layout.codec = codec
    readers = {_HEADER_INFO: _header_info, _FTRACE_EVENTS: _ftrace_formats,
               _EVENT_FORMATS: _event_formats}
    for number in (_HEADER_INFO, _FTRACE_EVENTS, _EVENT_FORMATS, _KALLSYMS, _CMDLINES):
        if number not in sections:
            if number in (_HEADER_INFO, _EVENT_FORMATS):
                raise InputError(f"the options name no section of {_NAMES[number]}",
                                 source=layout.source, place=f"byte {first}")
            continue
        part = _section(cursor.data, sections[number], number, _NAMES[number], codec,
                        layout.source)
        if number == _KALLSYMS:
            layout.kallsyms = part.text(4)
        elif number == _CMDLINES:
            layout.cmdlines = part.text(8)
        else:
            readers[number](part, layout)


def _head(data: memoryview, offset: int, number: int, what: str, source: str) -> tuple[
        int, int]:
    """A section's flags and size, from its head."""
    place = f"byte {offset}"
    if offset + _SECTION_HEAD > len(data):
        raise InputError(f"{what}: the section should be here, and the file ends at byte "
                         f"{len(data)}: it is cut short", source=source, place=place)
    head = Cursor(data[offset : offset + _SECTION_HEAD], source, what, offset)
    found, flags = head.number(2), head.number(2)
    head.number(4)  # a string that describes it
    if found != number:
        raise InputError(f"{what}: section {number} should be here and section {found} is",
                         source=source, place=place)
    return flags, head.number(8)


def _section(data: memoryview, offset: int, number: int, what: str, codec: Codec | None,
             source: str) -> Cursor:
    """The content of a section, unpacked."""
    flags, size = _head(data, offset, number, what, source)
    begin = offset + _SECTION_HEAD
    if begin + size > len(data):
        raise InputError(f"{what}: the section has {size} bytes, and the file ends at byte "
                         f"{len(data)}: it is cut short", source=source, place=f"byte {offset}")
    content = Cursor(data[begin : begin + size], source, what, begin)
    if not flags & _COMPRESSED:
        return content
    if codec is None:
        raise InputError(f"{what}: is compressed, and the header names no codec",
                         source=source, place=f"byte {offset}")
    unpacked = unpack(content, codec)
    return Cursor(memoryview(unpacked), source, what, offset, packed=True)


def _option_content(options: Cursor) -> Cursor:
    size = options.number(4)
    first, packed, what = options.first + options.at, options.packed, options.what
    if packed:
        first = options.first
    return Cursor(memoryview(options.take(size)), options.source, what, first, packed=packed)


def _buffer_option(content: Cursor, layout: Layout) -> int:
    """Where the main buffer's section is; 0 for another buffer, whose name is kept."""
    offset, name, clock = content.number(8), content.string(), content.string()
    if name:
        layout.others.append(name)
        return 0
    layout.clock = layout.clock or clock
    count = content.number(4)
    if content.left != count * 20:  # then it is the size of a page
        if count not in _PAGE_SIZES:
            raise content.error(f"pages of {count} bytes are not known")
        layout.page_size, count = count, content.number(4)
    if count > _MAX_CPUS:
        raise content.error(f"{count} cpus are more than can be")
    for _ in range(count):
        cpu = content.number(4)
        if cpu >= _MAX_CPUS:
            raise content.error(f"cpu {cpu} is more than can be")
        layout.cpus.append(CpuData(cpu, content.number(8), content.number(8)))
    layout.has_buffer = True
    return offset


# What both versions have

def _plain_option(option: int, content: Cursor, layout: Layout) -> None:
    text = bytes(content.data).rstrip(b"\0").decode("utf-8", "backslashreplace")
    if option == _CPUSTAT:
        layout.stats.append(text)
    elif option == _TRACECLOCK:
        layout.clock = _clock_in(bytes(content.data)) or layout.clock
    elif option == _UNAME:
        layout.uname = text
    elif option in (_DATE, _OFFSET):
        try:
            # A date's offset counts microseconds, the other nanoseconds.
            layout.offset += int(text, 0) * (1000 if option == _DATE else 1)
        except ValueError:
            raise content.error(f"the offset of times is no number: {text[:40]!a}"
                                ) from None
    elif option == _TSC2NSEC:
        layout.mult, layout.shift = content.number(4), content.number(4)
        if layout.shift > 63:
            raise content.error(f"times cannot be shifted by {layout.shift}")
    elif option == _TIME_SHIFT:
        layout.is_shifted = True


def _clock_in(text: bytes) -> str:
    """The clock that is in use, which has brackets."""
    found = re.search(rb"\[([\w-]+)\]", text)
    return found[1].decode() if found else ""


def _header_info(cursor: Cursor, layout: Layout) -> None:
    for name in (b"header_page\0", b"header_event\0"):
        found = cursor.take(len(name))
        if found != name:
            cursor.at -= len(name)
            raise cursor.error(f"{ascii(name)[1:]} should be here and {ascii(found)[1:]} is")
        text = cursor.text(8)
        if name.startswith(b"header_page"):
            layout.header_page = text


def _ftrace_formats(cursor: Cursor, layout: Layout) -> None:
    for _ in range(cursor.number(4)):
        layout.formats.append(("ftrace", cursor.text(8)))


def _event_formats(cursor: Cursor, layout: Layout) -> None:
    for _ in range(cursor.number(4)):
        system = cursor.string()
        for _ in range(cursor.number(4)):
            layout.formats.append((system, cursor.text(8)))


_PAGE_FIELD = re.compile(rb"field:[^;]*\b(\w+);\s*offset:(\d{1,9});\s*size:(\d{1,9});")


def _page_layout(layout: Layout) -> None:
    """Check that a page has its time, how much is in it, and its events where they are."""
    found = {name: (int(offset), int(size))
             for name, offset, size in _PAGE_FIELD.findall(layout.header_page)}
    if found.get(b"commit", (8, 8))[1] == 4:
        raise InputError("is of a 32-bit kernel, and only x86-64 ones are read",
                         source=layout.source)
    expected = {b"timestamp": (0, 8), b"commit": (8, 8)}
    if any(found.get(name) != where for name, where in expected.items()) or (
            found.get(b"data", (0, 0))[0] != 16):
        raise InputError("the ring buffer's pages have a form that is not known",
                         source=layout.source)
