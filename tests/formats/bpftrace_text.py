"""bpftrace's JSON lines, made of ftrace text, for tests that say what they mean."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from tests.formats.ftrace_text import Grant
from xenm2p.formats.bpftrace import read_bpftrace
from xenm2p.trace import Runs, Trace

HEADER = b'{"xenm2p":"capture","version":1,"tool":"bpftrace","kernel":"6.1.192",' \
    b'"vmemmap_base":"0xffffea0000000000"}\n'
_FTRACE = re.compile(
    rb"(?P<comm>.{16})-(?P<pid>\d+) *(?:\([ \d-]+\) *)?\[(?P<cpu>\d+)\](?: \S+)? +"
    rb"(?P<second>\d+)\.(?P<fraction>\d{6}): +(?P<event>\w+): *(?P<rest>.*)", re.DOTALL)
_LOST = re.compile(rb"CPU:(?P<cpu>\d+) \[LOST (?P<count>\d+) EVENTS\]")
_SMALL = frozenset({"ref", "domid", "count", "status", "handle", "index", "call", "kmap"})
_MAP_OP, _UNMAP_OP = ("set_foreign", "map_refs"), ("clear_foreign", "unmap_refs")


def record(probe: str, comm: str | bytes = "0.xvda-0", pid: int = 2656, cpu: int = 1,
           time: int = 1_390_727_208_000, **numbers: int) -> bytes:
    """One line; frames and pointers are in hex and in quotes."""
    fields = "".join(
        f',"{key}":{value}' if key in _SMALL or value < 0 else f',"{key}":"0x{value:x}"'
        for key, value in numbers.items())
    name = comm.encode() if isinstance(comm, str) else comm
    return (f'{{"time":{time},"cpu":{cpu},"pid":{pid},"probe":"{probe}"{fields},"comm":"'
            .encode() + name + b'"}\n')


def call(probe: str, *grants: Grant, number: int = 77, count: int | None = None, kmap: int = 0,
         **given: int) -> bytes:
    """A call and its pages."""
    lines = [record(probe, call=number, count=len(grants) if count is None else count,
                    kmap=kmap, **given)]
    for index, grant in enumerate(grants):
        lines.append(page_record(probe, number, index, grant, **given))
    return b"".join(lines)


def page_record(probe: str, number: int, index: int, grant: Grant, **given: int) -> bytes:
    """One page of a call."""
    page = 0xFFFFEA0000000000 + 64 * grant.pfn
    if probe in _MAP_OP:
        return record(f"{probe}_page", call=number, index=index, host_addr=0xFFFF888000000000,
                      flags=2, ref=grant.ref, domid=grant.domid, status=grant.status,
                      handle=grant.handle, dev_bus_addr=grant.mfn << 12, page=page, **given)
    return record(f"{probe}_page", call=number, index=index, host_addr=0xFFFF888000000000,
                  dev_bus_addr=0, handle=grant.handle, status=grant.status, page=page, **given)


def as_bpftrace(text: bytes) -> bytes:
    """What a program of ours would print where ftrace prints `text`, without its header."""
    return b"".join(_lines(text))


def _lines(text: bytes) -> Iterator[bytes]:
    for place, line in enumerate(text.split(b"\n")):
        found, lost = _FTRACE.match(line), _LOST.match(line)
        if lost is not None:
            yield b'{"probe":"lost","cpu":%d,"count":%s}\n' % (int(lost["cpu"]), lost["count"])
        if found is None:
            continue
        given = {"comm": found["comm"].lstrip(b" "), "pid": int(found["pid"]),
                 "cpu": int(found["cpu"]),
                 "time": int(found["second"] + found["fraction"]) * 1000}
        fields = dict(word.split(b"=", 1) for word in found["rest"].split() if b"=" in word)
        numbers = {key.decode(): int(value, 0) for key, value in fields.items()
                   if not value.startswith(b"{") and re.fullmatch(rb"-?\d+|0x[0-9a-f]+", value)}
        event = found["event"].decode()
        if event in (*_MAP_OP, *_UNMAP_OP):
            kmap = numbers["kmap_ops" if event in _MAP_OP else "kunmap_ops"]
            yield record(event, call=place, count=numbers["count"], kmap=int(kmap != 0), **given)
            words, pages = ([int(word, 0) for word in fields[name].strip(b"{}").split(b",")]
                            for name in (b"op", b"page"))
            width = 4 if event in _MAP_OP else 3
            for index in range(min(numbers["count"], len(pages))):
                op = words[width * index : width * (index + 1)]
                if any(op) or pages[index]:
                    yield record(f"{event}_page", call=place, index=index, **_op(op),
                                 page=pages[index], **given)
        else:
            yield record(event, **numbers, **given)


def _op(op: list[int]) -> dict[str, int]:
    def status(word: int) -> int:
        return (word & 0xFFFF) - (word >> 15 & 1) * 65536

    if len(op) == 4:
        return {"host_addr": op[0], "flags": op[1] & 0xFFFFFFFF, "ref": op[1] >> 32,
                "domid": op[2] & 0xFFFF, "status": status(op[2] >> 16), "handle": op[2] >> 32,
                "dev_bus_addr": op[3]}
    return {"host_addr": op[0], "dev_bus_addr": op[1], "handle": op[2] & 0xFFFFFFFF,
            "status": status(op[2] >> 32)}


def read_json(text: bytes, memory: Runs | None = None) -> Trace:
    """The trace that bpftrace's lines give."""
    return read_bpftrace(io.BytesIO(text), "capture.jsonl", memory=memory)
