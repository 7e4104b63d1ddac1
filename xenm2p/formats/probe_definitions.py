"""The catalogue's probes as kprobe definitions for one kernel.

A definition is a line of tracefs' ``kprobe_events``:
``p:p2m/set_p2m __set_phys_to_machine pfn=%di:x64 mfn=%si:x64``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xenm2p.formats.probe_signatures import (
    MAP_OP_FIELDS,
    MAP_OP_SIZE,
    REGISTERS,
    SIGNATURES,
    UNMAP_OP_FIELDS,
    UNMAP_OP_SIZE,
    Signature,
    signature_of,
)
from xenm2p.formats.probes import PAGE_FIELDS, PROBES, Probe, Role
from xenm2p.kernels import Version

# Eleven pages are what a ring request of blkfront holds; drivers/block/xen-blkfront.c.
DEFAULT_PAGES = 11
# kernel/trace/trace_probe.h: MAX_ARRAY_LEN words in an array, of which a map op has four;
# MAX_TRACE_ARGS arguments in a probe, which six for each page do not reach.
MAX_PAGES = 64 // (MAP_OP_SIZE // 8)

# What kprobe_events came to understand: 17ce3dc7e5a0 (x64, where u64 printed hex before),
# 696ced4fb1d7 (how many calls a return probe follows at once), 40b53b771806 (arrays).
HEX_TYPES = (4, 9)
_MAXACTIVE = (4, 12)
ARRAYS = (4, 20)
_CALLS_AT_ONCE = 10

# Fields of an op that are fetched of each page where arrays cannot be: those that are there
# before its hypercall, or after it.
_WANTED: dict[Role, frozenset[str]] = {
    Role.MAP: frozenset({"ref", "domid", "status", "handle", "dev_bus_addr"}),
    Role.MAP_REFS: frozenset({"ref", "domid"}),
    Role.UNMAP: frozenset({"handle", "status"}),
    Role.UNMAP_REFS: frozenset({"handle"}),
}


@dataclass(frozen=True, slots=True)
class Target:
    """The kernel that probes are for, and how many pages of a call they fetch."""

    version: Version
    pages: int = DEFAULT_PAGES

    def functions(self, probe: Probe) -> list[Signature]:
        """The functions that may be probed for an event, best first.

        Those that this version has come first; distributions take functions from newer
        kernels, so others that go by the same parameters follow. Empty where this version
        has none.
        """
        known = [signature_of(function, self.version) for function in probe.functions]
        covered = [signature for signature in known if signature is not None]
        if not covered or probe.role in CALL_OPS or len(probe.functions) == 1:
            return covered
        others = [next(row for row in SIGNATURES if row.function == function)
                  for function, signature in zip(probe.functions, known, strict=True)
                  if signature is None]
        return covered + others


CALL_OPS: dict[Role, tuple[int, dict[str, tuple[int, str]]]] = {
    Role.MAP: (MAP_OP_SIZE, MAP_OP_FIELDS),
    Role.MAP_REFS: (MAP_OP_SIZE, MAP_OP_FIELDS),
    Role.UNMAP: (UNMAP_OP_SIZE, UNMAP_OP_FIELDS),
    Role.UNMAP_REFS: (UNMAP_OP_SIZE, UNMAP_OP_FIELDS),
}


def probes_for(target: Target, *, locks: bool = True) -> list[Probe]:
    """The probes worth setting on this kernel, in the order of the catalogue."""
    return [probe for probe in PROBES
            if probe.role is not Role.MARKER
            and (locks or probe.group not in ("pagelock", "filemap"))
            and (probe.tracepoint or target.functions(probe))]


def definitions(probe: Probe, target: Target) -> list[str]:
    """What may be written to kprobe_events for a probe, best first.

    The first that the kernel takes is to be used: it may lack a function, or arrays, or
    take no lines as long as these.
    """
    return list(dict.fromkeys(
        f"p:{probe.group}/{probe.event} {signature.function}{fetched}"
        for signature in target.functions(probe)
        for fetched in _forms(probe, signature, target)))


def return_definitions(probe: Probe, target: Target) -> list[str]:
    """As `definitions`, of the probe of the function's return; none where it returns nothing."""
    if not probe.returns:
        return []
    at_once = str(_CALLS_AT_ONCE) if target.version >= _MAXACTIVE else ""
    return [f"r{at_once}:{probe.group}/{probe.event}_ret {signature.function} "
            f"ret=$retval:{_type(probe.returns, target)}"
            for signature in target.functions(probe)]


def registers(signature: Signature) -> dict[str, str]:
    """The register of each parameter of a function, as kprobes name it."""
    return {name: f"%{register}"
            for name, register in zip(signature.parameters, REGISTERS, strict=False)}


def _forms(probe: Probe, signature: Signature, target: Target) -> Iterator[str]:
    """The arguments to fetch: whole arrays, the fields of each page, or neither."""
    where = registers(signature)
    plain = list(_plain(probe, signature, target))
    if probe.role not in CALL_OPS:
        yield "".join(f" {each}" for each in plain)
        return
    if target.version >= ARRAYS:
        arrays = [f"{argument.name}=+0({where[argument.at]}):x64[{argument.words * target.pages}]"
                  for argument in probe.arguments if argument.words]
        yield "".join(f" {each}" for each in [*plain, *arrays])
    ops, pages = where[probe.arguments[0].name], where["pages"]
    yield "".join(f" {each}" for each in [*plain, *_scalars(probe, ops, pages, target)])
    yield "".join(f" {each}" for each in plain)


def _plain(probe: Probe, signature: Signature, target: Target) -> Iterator[str]:
    """Arguments that are parameters, or lie where one points."""
    where = registers(signature)
    for argument in probe.arguments:
        pointer = next(each for each in probe.arguments if each.name == (argument.at or
                                                                         argument.name))
        register = next((where[name] for name in (pointer.name, *pointer.others)
                         if name in where), None)
        if register is None or argument.words:
            continue  # not a parameter in this kernel, or an array
        place = f"+0({register})" if argument.at else register
        yield f"{argument.name}={place}:{_type(argument.type, target)}"


def _scalars(probe: Probe, ops: str, pages: str, target: Target) -> Iterator[str]:
    """``r0=.. h0=.. a0=.. p0=..`` for each page, of those fields that are there by then."""
    size, fields = CALL_OPS[probe.role]
    short = {field: names[0] for field, names in PAGE_FIELDS.items()}
    wanted = [field for field in PAGE_FIELDS if field in _WANTED[probe.role]]
    for page in range(target.pages):
        for field in wanted:
            offset, kind = fields[field]
            yield f"{short[field]}{page}=+{size * page + offset}({ops}):{_type(kind, target)}"
        yield f"{short['page']}{page}=+{8 * page}({pages}):{_type('x64', target)}"


def _type(name: str, target: Target) -> str:
    return name if target.version >= HEX_TYPES else name.replace("x", "u")
