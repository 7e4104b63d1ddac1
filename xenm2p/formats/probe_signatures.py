"""How the kernel's functions are called, version by version, as its sources have them.

A kprobe fetches registers, so a parameter that comes or goes moves all after it. Each row
names the sources in which the parameters were seen; a span of versions whose sources were
not is left out, and the function then is not probed there. All of it is x86-64: on Arm a
domain has no p2m of its own to write, and these functions do other things or are not there.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenm2p.kernels import Version

# The System V calling convention: where integer parameters are at a function's entry.
REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")

# include/xen/interface/grant_table.h: byte offset in the op, kprobe type. After the
# hypercall the machine frame of a map is dev_bus_addr >> 12.
MAP_OP_FIELDS: dict[str, tuple[int, str]] = {  # struct gnttab_map_grant_ref
    "host_addr": (0, "x64"),
    "flags": (8, "x32"),
    "ref": (12, "u32"),
    "domid": (16, "u16"),
    "status": (18, "s16"),
    "handle": (20, "u32"),
    "dev_bus_addr": (24, "x64"),
}
MAP_OP_SIZE = 32
UNMAP_OP_FIELDS: dict[str, tuple[int, str]] = {  # struct gnttab_unmap_grant_ref
    "host_addr": (0, "x64"),
    "dev_bus_addr": (8, "x64"),
    "handle": (16, "u32"),
    "status": (20, "s16"),
}
UNMAP_OP_SIZE = 24

# arch/x86/include/asm/page_64.h: __VMEMMAP_BASE_L4, where four-level page tables without
# CONFIG_RANDOMIZE_MEMORY have their struct pages; else the variable `vmemmap_base` tells.
VMEMMAP_BASE = 0xFFFFEA0000000000
VMEMMAP_SYMBOL = "vmemmap_base"
# sizeof(struct page): seven words in include/linux/mm_types.h of 3.1, which SLUB's
# cmpxchg_double then made eight; a kernel with debugging options may have more.
STRUCT_PAGE_SIZES = (64, 56)


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of a function from Linux `first` on, up to but without `before`.

    `parameters` are named as in C, in order, from the first on as far as they are of use.
    `seen` says in which sources.
    """

    function: str
    first: tuple[int, ...]
    before: tuple[int, ...] | None
    parameters: tuple[str, ...]
    seen: str

    @property
    def versions(self) -> str:
        """The versions as a person writes them."""
        first = ".".join(map(str, self.first))
        if self.before is None:
            return f"{first} and later"
        return f"{first} until before {'.'.join(map(str, self.before))}"

    def covers(self, version: Version) -> bool:
        """Whether a kernel of this version has the function so."""
        return self.first <= version and (self.before is None or version < self.before)


def _rows(function: str, seen: str, parameters: str, first: tuple[int, ...],
          before: tuple[int, ...] | None = None) -> Signature:
    return Signature(function, first, before, tuple(parameters.split()), seen)


_OLDEST = (2, 6, 38)
_P2M = "arch/x86/xen/p2m.c"
_GRANT_TABLE = "drivers/xen/grant-table.c"
_BEFORE_FOLIOS = "include/linux/pagemap.h and mm/filemap.c of 4.4, 4.11"
_SINCE_FOLIOS = "include/linux/pagemap.h of the series that brought folios; 6.1"

SIGNATURES: tuple[Signature, ...] = (
    _rows("__set_phys_to_machine", f"{_P2M} of 2.6.38, 3.6, 3.19, 6.1",
          "pfn mfn", _OLDEST),
    _rows("set_phys_to_machine", f"{_P2M} of 2.6.38, 3.6, 3.19, 6.1",
          "pfn mfn", _OLDEST),

    # A third parameter is in 3.1 clear_pte, from 3.2 on kmap_op.
    _rows("m2p_add_override", f"{_P2M} of 2.6.38; asm/xen/page.h of 3.1",
          "mfn page", _OLDEST, (3, 2)),
    # Static with a single caller in 3.19: compilers may inline it.
    _rows("m2p_add_override", f"{_P2M} of 3.6, 3.19",
          "mfn page kmap_op", (3, 2), (4, 0)),
    # The second parameter, which 2.6.38 has not, is clear_pte in 3.1 and 3.4, kmap_op in 3.6.
    _rows("m2p_remove_override", f"{_P2M} of 2.6.38, 3.4", "page", _OLDEST, (3, 6)),
    _rows("m2p_remove_override", f"{_P2M} of 3.6, 3.19",
          "page kmap_op", (3, 6), (4, 0)),

    _rows("set_foreign_p2m_mapping", f"{_P2M} of 3.19, 5.10, 6.1",
          "map_ops kmap_ops pages count", (3, 15)),
    _rows("clear_foreign_p2m_mapping", f"{_P2M} of 3.19, 5.10, 6.1",
          "unmap_ops kunmap_ops pages count", (3, 15)),
    _rows("gnttab_map_refs", "include/xen/grant_table.h of 3.0, 3.1",
          "map_ops pages count", _OLDEST, (3, 2)),
    _rows("gnttab_map_refs", "include/xen/grant_table.h of 3.4, 3.6, 3.10, 4.0, 6.1",
          "map_ops kmap_ops pages count", (3, 2)),
    # 3.4 has (unmap_ops, pages, count, clear_pte); which of its stable releases and 3.5
    # went over to kunmap_ops was not seen.
    _rows("gnttab_unmap_refs", "include/xen/grant_table.h of 3.0, 3.1",
          "unmap_ops pages count", _OLDEST, (3, 4)),
    _rows("gnttab_unmap_refs", "include/xen/grant_table.h of 3.6, 3.10, 4.0, 6.1",
          "unmap_ops kunmap_ops pages count", (3, 6)),

    _rows("update_grant_entry", f"{_GRANT_TABLE} of 3.2",
          "ref domid frame flags", _OLDEST, (3, 4)),
    _rows("gnttab_update_entry_v1", f"{_GRANT_TABLE} of 3.10, 4.19, 6.1",
          "ref domid frame flags", (3, 3)),
    _rows("gnttab_update_entry_v2", f"{_GRANT_TABLE} of 4.19, 6.1",
          "ref domid frame flags", (3, 3)),
    _rows("gnttab_grant_foreign_access_ref", "include/xen/grant_table.h of 3.1, 3.6, 4.0, 6.1",
          "ref domid frame readonly", _OLDEST),
    # A second parameter, readonly, which newer kernels have not, is of no use.
    _rows("gnttab_end_foreign_access_ref", "include/xen/grant_table.h of 3.1, 3.6, 4.0, 6.1",
          "ref", _OLDEST),
    _rows("gnttab_end_foreign_access_ref_v1", f"{_GRANT_TABLE} of 3.10, 4.19, 6.1",
          "ref", (3, 3)),
    _rows("gnttab_end_foreign_access_ref_v2", f"{_GRANT_TABLE} of 4.19, 6.1",
          "ref", (3, 3)),

    # The page is locked when it is called: VM_BUG_ON(!PageLocked(page)). Newer kernels have
    # a tracepoint, and call __add_to_page_cache_locked instead.
    _rows("add_to_page_cache_locked", "mm/filemap.c before the tracepoint",
          "page", _OLDEST, (3, 15)),
    _rows("unlock_page", _BEFORE_FOLIOS, "page", _OLDEST, (5, 16)),
    _rows("folio_unlock", _SINCE_FOLIOS, "folio", (5, 16)),
    _rows("__lock_page", _BEFORE_FOLIOS, "page", _OLDEST, (5, 16)),
    _rows("__folio_lock", _SINCE_FOLIOS, "folio", (5, 16)),
    _rows("__lock_page_killable", _BEFORE_FOLIOS, "page", _OLDEST, (5, 16)),
    _rows("__folio_lock_killable", _SINCE_FOLIOS, "folio", (5, 16)),
)


def signature_of(function: str, version: Version) -> Signature | None:
    """How a kernel of `version` has `function`; None where it has none that is known."""
    return next((row for row in SIGNATURES
                 if row.function == function and row.covers(version)), None)
