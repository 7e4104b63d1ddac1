"""Which kernel model a capture was taken under, as far as its own symbols and writes tell."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from xenm2p.errors import UsageError
from xenm2p.formats.ftrace_fields import number_of
from xenm2p.formats.probes import Role
from xenm2p.kernels import KMAP_ONLY, LOCAL_FOREIGN, P2M_ONLY_CONTINUE, model_for

# perf script --header; kernel/trace/trace.c: print_trace_header
_NAMES_KERNEL = re.compile(
    r"# os release : (?P<perf>\S+)|# \S+ latency trace v[\d.]+ on (?P<latency>\S+)")


@dataclass(slots=True)
class Evidence:
    """What was seen that only some kernels have, and what else the header says.

    `named` is a version the capture's header gives, `vmemmap_base` where it says that the
    struct pages begin, `missed` how many hits of which probe the kernel missed; `functions`
    those that lines name or the header has from kallsyms, `has_migrate_disable` the flag
    column of that name, `has_rt_columns` those of kernels with the RT patches;
    `marks_frontend` says that a call wrote its frontend's entry, `restores_index` that an
    unmap wrote something other than INVALID, `goes_on` that an unmap call went on after a
    page that failed.
    """

    named: str | None = None
    vmemmap_base: int | None = None
    missed: dict[str, int] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    roles: set[Role] = field(default_factory=set)
    has_migrate_disable: bool = False
    has_rt_columns: bool = False
    marks_frontend: bool = False
    restores_index: bool = False
    goes_on: bool = False

    def header_line(self, text: str) -> None:
        """Take in a comment line of the capture."""
        words = text.lstrip("# ").split()
        if len(words) == 2 and words[0] in ("kernel:", "release:"):
            self.named = words[1]
        # What the scripts of `xenm2p capture` write: formats/capture_shell.py
        elif len(words) == 2 and words[0] == "vmemmap_base:":
            base = number_of(words[1].encode())
            self.vmemmap_base = base or None
        elif len(words) == 3 and words[0] == "missed:":
            self.missed[words[1]] = number_of(words[2].encode()) or 0
        elif len(words) == 4 and words[0] == "kallsyms:" and words[2] in "tTwW":
            self.functions.add(words[3].partition(".")[0])
        named = _NAMES_KERNEL.fullmatch(text)
        if named is not None:
            self.named = named["perf"] or named["latency"]
        # 54357f0c9149, 5.14; kernels with the RT patches had a column of this name before.
        if "_-=> migrate-disable" in text:
            self.has_migrate_disable = True
        if "preempt-lazy-depth" in text or "need-resched_lazy" in text:
            self.has_rt_columns = True


def conclude(seen: Evidence) -> tuple[str | None, str]:
    """The model's name, or None where it stays open, and a sentence that says why."""
    if seen.named is not None:
        try:
            return model_for(seen.named).name, f"the header names Linux {seen.named}"
        except UsageError as error:
            return None, f"the header's kernel is not known ({error})"
    has_override = bool(seen.roles & {Role.ADD_OVERRIDE, Role.REMOVE_OVERRIDE})
    has_mapping = bool(seen.roles & {Role.MAP, Role.UNMAP})
    if has_override and has_mapping:
        return KMAP_ONLY.name, "m2p overrides and set_foreign_p2m_mapping: Linux 3.15-3.19"
    if has_override and seen.marks_frontend:
        return LOCAL_FOREIGN.name, (
            "m2p overrides without set_foreign_p2m_mapping, and frontend entries were marked: "
            "Linux 3.5-3.14")
    if has_override:
        return None, ("m2p overrides and no frontend entry marked: Linux before 3.15; "
                      "--traced-kernel tells which")
    # Symbols before writes: in a capture with losses a write may seem to be of another call.
    name = P2M_ONLY_CONTINUE.name
    if any(function.startswith(("folio_", "__folio_")) for function in seen.functions):
        return name, "page locks are folios: Linux 5.16 or later"
    if seen.has_migrate_disable and not seen.has_rt_columns:
        return name, "the header has a migrate-disable column: Linux 5.14 or later"
    if seen.marks_frontend:
        return KMAP_ONLY.name, "map calls marked frontend entries: Linux 3.15-3.19"
    if seen.goes_on:
        return name, "an unmap call went on after a page that failed: Linux 5.12 or later"
    if seen.restores_index:
        return None, ("unmapped pages got other entries than INVALID: Linux before 4.0; "
                      "--traced-kernel tells which")
    return name, ("assumed, as nothing in the capture is other than what Linux 5.12 and later "
                  "do; --traced-kernel says otherwise")
