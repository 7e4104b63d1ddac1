"""trace.dat as trace-cmd writes it, built from lines of ftrace text, for tests.

Each line's event becomes a record: the same events can be read in both forms.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import zstandard

from tests.formats.ftrace_text import line

PAGE = 4096
MAGIC = b"\x17\x08Dtracing"
PACK: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress, "zstd": lambda data: zstandard.ZstdCompressor().compress(data)}
HEADER_PAGE = (
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
    "\tfield: local_t commit;\toffset:8;\tsize:{0};\tsigned:1;\n"
    "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
    "\tfield: char data;\toffset:{1};\tsize:4080;\tsigned:1;\n")
_COMMON = (
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
    "\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n")
_NUMBERS = {"count": ("u32", 4), "ref": ("u32", 4), "domid": ("u16", 2), "flags": ("u32", 4),
            "status": ("s16", 2), "ret": ("s32", 4), "readonly": ("s32", 4)}
_EVENT = re.compile(r"(?P<name>\w+): (?:\((?P<place>[^)]*)\) )?(?P<fields>.*)")


@dataclass
class Event:
    """One event, with what trace-cmd knows of it beside its line's text."""

    text: str
    task: str = "0.xvda-0-2656"
    cpu: int = 0
    time: int = 1000  # nanoseconds; text has microseconds
    missed: int | None = None  # events lost before it, -1 where their number is not stored
    absolute: bool = False  # its time is given by a time stamp
    discarded: int = 0  # a record of so many bytes before it was discarded

    def line(self) -> str:
        """The event as ftrace text."""
        return line(self.text, self.task, self.cpu, self.time / 1e9)

    @property
    def pid(self) -> int:
        """The task's pid."""
        return int(self.task.rpartition("-")[2])


@dataclass
class _Format:
    number: int
    text: str
    fields: list[tuple[str, str, int]]  # name, struct code, how many


@dataclass
class File:
    """A trace.dat of some events. `options` are more of them, by number."""

    events: list[Event]
    options: list[tuple[int, bytes]] = field(default_factory=list)
    uname: str = "Linux dom0 6.1.0-56-amd64 x86_64"
    clock: str = "local"
    cpus: int = 2
    kallsyms: bool = True
    instances: list[str] = field(default_factory=list)
    pages_per_chunk: int = 2
    formats: dict[str, _Format] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)

    def records(self) -> dict[int, list[tuple[Event, bytes]]]:
        """The records of each cpu."""
        found: dict[int, list[tuple[Event, bytes]]] = {cpu: [] for cpu in range(self.cpus)}
        for event in self.events:
            found[event.cpu].append((event, self._record(event)))
        return found

    def _record(self, event: Event) -> bytes:
        match = _EVENT.match(event.text)
        assert match is not None
        place, head = match["place"], b""
        returns = place is not None and "<-" in place
        if place is not None:
            function = place.split("<- ")[-1].partition("+")[0]
            address = self.symbols.setdefault(
                function, 0xFFFFFFFF81000000 + 0x1000 * len(self.symbols))
            offset = 0 if returns else int(place.partition("+")[2].partition("/")[0], 16)
            head = struct.pack("<QQ", address, 0xFFFFFFFF80000000) if returns else (
                struct.pack("<Q", address + offset))
        fields = dict(part.split("=", 1) for part in match["fields"].split() if "=" in part)
        known = self.formats.get(match["name"])
        if known is None:
            known = self._format(match["name"], len(head), returns, fields)
            self.formats[match["name"]] = known
        data = struct.pack("<HBBi", known.number, 0, 0, event.pid) + head
        for (_, code, count), value in zip(known.fields, fields.values(), strict=True):
            numbers = [int(n, 0) for n in value.strip("{}").split(",")]
            data += struct.pack(f"<{count}{code}", *numbers)
        return data

    def _format(self, name: str, head: int, returns: bool, fields: dict[str, str]) -> _Format:
        number = 1600 + len(self.formats)
        text = f"name: {name}\nID: {number}\nformat:\n{_COMMON}"
        probe = ("__probe_func", "__probe_ret_ip") if returns else ("__probe_ip",)
        at = 8
        for each in probe if head else ():
            text += f"\tfield:unsigned long {each};\toffset:{at};\tsize:8;\tsigned:0;\n"
            at += 8
        described = []
        for key, value in fields.items():
            kind, size = _NUMBERS.get(key, ("u64", 8))
            count = value.count(",") + 1
            array = f"[{count}]" if value.startswith("{") else ""
            text += (f"\tfield:{kind} {key}{array};\toffset:{at};\tsize:{size * count};"
                     f"\tsigned:{int(kind[0] == 's')};\n")
            at += size * count
            code = {8: "Q", 4: "I", 2: "H"}[size]
            described.append((key, code.lower() if kind[0] == "s" else code, count))
        return _Format(number, text + f'\nprint fmt: "{name}"\n', described)

    def pages(self, records: list[tuple[Event, bytes]]) -> list[bytes]:
        """The pages of one cpu."""
        pages: list[_Page] = []
        for event, data in records:
            if not pages or event.missed is not None or not pages[-1].add(event, data):
                pages.append(_Page(event))
                assert pages[-1].add(event, data)
        return [page.bytes() for page in pages]

    # The parts that both versions have

    def parts(self) -> dict[int, bytes]:
        """The contents of sections by their numbers in version 7."""
        header_page = HEADER_PAGE.format(8, 16).encode()
        texts = [each.text.encode() for each in self.formats.values()]
        symbols = "".join(f"{at:016x} t {name}\n" for name, at in self.symbols.items())
        tasks = {event.pid: event.task.rpartition("-")[0] for event in self.events}
        names = "".join(f"{pid} {name}\n" for pid, name in tasks.items()
                        if pid and name != "<...>")
        return {
            16: b"header_page\0" + _sized(header_page) + b"header_event\0" + _sized(b"# none\n"),
            17: struct.pack("<I", 0),
            18: struct.pack("<I", 1) + b"gnt\0" + struct.pack("<I", len(texts)) + b"".join(
                _sized(text) for text in texts),
            19: _sized(symbols.encode() if self.kallsyms else b"", "<I"),
            20: _sized(b"", "<I"),
            21: _sized(names.encode()),
        }

    def version6(self) -> bytes:
        """The file as version 6."""
        data = [b"".join(self.pages(each)) for each in self.records().values()]
        parts = self.parts()
        out = MAGIC + b"6\0" + bytes([0, 8]) + struct.pack("<I", PAGE)
        out += b"".join(parts[number] for number in (16, 17, 18, 19, 20, 21))
        out += struct.pack("<I", self.cpus) + b"options  \0"
        options = [(5, self.uname.encode() + b"\0"), (4, b""), *self.options,
                   *((3, struct.pack("<Q", 0) + name.encode() + b"\0") for name in
                     self.instances)]
        out += b"".join(_option(*each) for each in options) + struct.pack("<H", 0)
        out += b"flyrecord\0"
        clock = _sized(f"global [{self.clock}] x86-tsc\n".encode())
        at = _aligned(len(out) + 16 * self.cpus + len(clock))
        begin = at
        for each in data:
            out += struct.pack("<QQ", at, len(each))
            at += len(each)
        out += clock
        return out.ljust(begin, b"\0") + b"".join(data)

    def version7(self, codec: str = "none", *, table_first: bool = False,
                 has_page_size: bool = True) -> bytes:
        """The file as version 7, with the table of the cpus' data before it or behind it."""
        data = [self.pages(each) for each in self.records().values()]
        packed = [self._packed(each, codec) for each in data]
        out = MAGIC + b"7\0" + bytes([0, 8]) + struct.pack("<I", PAGE)
        out += codec.encode() + b"\0" + b"1.5\0"
        first_options = len(out)
        out += bytes(8)
        where = {}
        for number, content in self.parts().items():
            where[number] = len(out)
            out += _section(number, content, codec)
        options = [(number, struct.pack("<Q", at)) for number, at in where.items()]
        options += [(5, self.uname.encode() + b"\0"), *self.options]
        options += [(3, struct.pack("<Q", 0) + name.encode() + b"\0local\0" + bytes(4))
                    for name in self.instances]

        def table(begin: int) -> bytes:
            at = _aligned(begin + 16)
            content = struct.pack("<Q", begin) + b"\0" + self.clock.encode() + b"\0"
            content += struct.pack("<I", PAGE) if has_page_size else b""
            content += struct.pack("<I", self.cpus)
            for cpu, each in enumerate(packed):
                # The number of chunks is not counted.
                size = len(each) - (4 if codec != "none" else 0)
                content += struct.pack("<IQQ", cpu, at, size)
                at = _aligned(at + len(each))
            return _option(3, content)

        def buffer(begin: int) -> bytes:
            at = _aligned(begin + 16)
            body = bytes(at - begin - 16)
            for number, each in enumerate(packed):
                body += each
                if number + 1 < len(packed):
                    body = body.ljust(_aligned(begin + 16 + len(body)) - begin - 16, b"\0")
            return struct.pack("<HHIQ", 3, int(codec != "none"), 0, len(body)) + body

        plain = b"".join(_option(*each) for each in options)
        if table_first:
            size = 16 + len(plain) + len(table(0)) + 14
            begin = len(out) + size
            chain = _section(0, plain + table(begin) + _option(0, bytes(8)), "none")
            assert len(chain) == size
            at_options = len(out)
            out += chain + buffer(begin)
        else:
            begin = len(out)
            out += buffer(begin)
            at_options = len(out)
            size = 16 + len(plain) + 14
            out += _section(0, plain + _option(0, struct.pack("<Q", len(out) + size)), "none")
            out += _section(0, table(begin) + _option(0, bytes(8)), "none")
            out += _section(15, b"strings\0", codec)
        return out[:first_options] + struct.pack("<Q", at_options) + out[first_options + 8 :]

    def _packed(self, pages: list[bytes], codec: str) -> bytes:
        if codec == "none":
            return b"".join(pages)
        step = self.pages_per_chunk
        chunks = [b"".join(pages[i : i + step]) for i in range(0, len(pages), step)]
        return struct.pack("<I", len(chunks)) + b"".join(_block(each, codec) for each in chunks)


class _Page:
    """One page of the ring buffer, to which records are added."""

    def __init__(self, first: Event) -> None:
        self.begin = self.time = first.time
        self.missed = first.missed
        self.data = b""

    def add(self, event: Event, data: bytes) -> bool:
        """Add a record; False where it has no room."""
        out, time = b"", self.time
        if event.discarded:
            out += struct.pack("<II", 29 | 1 << 5, event.discarded)
            out = out.ljust(4 + event.discarded, b"\xee")
            time += 1
        delta = event.time - time
        if event.absolute:
            low = event.time & (1 << 59) - 1
            out += struct.pack("<II", 31 | (low & (1 << 27) - 1) << 5, low >> 27)
            delta = 0
        elif delta < 0:
            return False
        elif delta >= 1 << 27:
            out += struct.pack("<II", 30 | (delta & (1 << 27) - 1) << 5, delta >> 27)
            delta = 0
        padded = data.ljust(-(-len(data) // 4) * 4, b"\0")
        if len(padded) <= 112:
            out += struct.pack("<I", len(padded) // 4 | delta << 5) + padded
        else:
            out += struct.pack("<II", delta << 5, len(padded) + 4) + padded
        if len(self.data) + len(out) > PAGE - 16:
            return False
        self.data += out
        self.time = event.time
        return True

    def bytes(self) -> bytes:
        """The page, with the number of missed events behind its records where it is known."""
        commit, after = len(self.data), b""
        if self.missed is not None:
            commit -= 1 << 31  # as the kernel adds a negative int
            if self.missed >= 0:
                commit += 1 << 30
                after = struct.pack("<q", self.missed)
        page = struct.pack("<Qq", self.begin, commit) + self.data + after
        return page.ljust(PAGE, b"\0")


def _sized(text: bytes, size: str = "<Q") -> bytes:
    return struct.pack(size, len(text)) + text


def _aligned(at: int) -> int:
    return -(-at // PAGE) * PAGE


def _option(number: int, content: bytes) -> bytes:
    return struct.pack("<HI", number, len(content)) + content


def _block(content: bytes, codec: str) -> bytes:
    packed = PACK[codec](content)
    return struct.pack("<II", len(packed), len(content)) + packed


def _section(number: int, content: bytes, codec: str) -> bytes:
    body = content if codec == "none" else _block(content, codec)
    return struct.pack("<HHIQ", number, int(codec != "none"), 0, len(body)) + body
