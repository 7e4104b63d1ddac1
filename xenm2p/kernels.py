"""The kernel models: one small frozen dataclass each, every difference with its commit.

A model is named by behaviour. What differs between two kernels is a field here; the
engines read fields and never compare versions. The functions behind all of it are
m2p_add_override, m2p_remove_override, m2p_find_override (arch/x86/xen/p2m.c),
set_foreign_p2m_mapping, clear_foreign_p2m_mapping (same file, 3.15 on) and
mfn_to_pfn (arch/x86/include/asm/xen/page.h).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from xenm2p.errors import UsageError, unknown

Version: TypeAlias = tuple[int, int, int]

# m2p_overrides is a hash of 1 << 10 lists, arch/x86/xen/p2m.c: M2P_OVERRIDE_HASH_SHIFT
BUCKET_BITS = 10
# GOLDEN_RATIO_PRIME_64, include/linux/hash.h: hash_long
GOLDEN_RATIO_PRIME = 0x9E37FFFFFFFC0001


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference from the model before, with the commit that brought it.

    `effect` is what is so since then, in a few words. `stable` is the older stable release
    that took the commit, None where none is known.
    """

    commit: str
    version: str
    subject: str
    effect: str
    stable: str | None = None


@dataclass(frozen=True, slots=True)
class KernelModel:
    """What one era of kernels does on map and unmap.

    overrides: mapped pages go onto the m2p override list; p2m, index, private are saved
        and restored (2.6.38-3.19).
    overrides_need_user: only `user` shares are listed and mark the frontend (3.15-3.19).
    marks_frontend: the first share sets FOREIGN on the frontend's p2m entry, the last
        clears it.
    derefs_kmap_op: an unmap with another `user` than its map follows a wild pointer.
    dev_bus_frame: the frame is dev_bus_addr >> 12, so that it has 52 bits.
    failed_unmap_ends_call: an unmap that fails ends its gnttab_unmap_refs call.
    vma_pages: user mappings carry their pages, direct I/O never asks mfn_to_pfn.
    """

    name: str
    first: str
    last: str | None
    overrides: bool
    overrides_need_user: bool
    marks_frontend: bool
    derefs_kmap_op: bool
    dev_bus_frame: bool
    failed_unmap_ends_call: bool
    vma_pages: bool
    brought_by: tuple[Difference, ...]

    @property
    def versions(self) -> str:
        """The Linux versions that behave so, as a person writes them."""
        return f"{self.first}-{self.last}" if self.last else f"{self.first} and later"


OVERRIDE = KernelModel(
    name="override", first="2.6.38", last="3.4.9",
    overrides=True, overrides_need_user=False, marks_frontend=False, derefs_kmap_op=True,
    dev_bus_frame=False, failed_unmap_ends_call=True, vma_pages=False,
    brought_by=(
        Difference("9b705f0e98c4", "2.6.38",
                   "xen p2m: transparently change the p2m mappings in the m2p override",
                   "a map writes the page's p2m entry and lists it"),
    ),
)
LOCAL_FOREIGN = KernelModel(
    name="local-foreign", first="3.5", last="3.14",
    overrides=True, overrides_need_user=False, marks_frontend=True, derefs_kmap_op=False,
    dev_bus_frame=False, failed_unmap_ends_call=True, vma_pages=False,
    brought_by=(
        Difference("b9e0d95c041c", "3.5",
                   "xen: mark local pages as FOREIGN in the m2p_override",
                   "the frontend page is marked FOREIGN while it is shared", stable="3.4.10"),
    ),
)
KMAP_ONLY = KernelModel(
    name="kmap-only", first="3.15", last="3.19",
    overrides=True, overrides_need_user=True, marks_frontend=True, derefs_kmap_op=False,
    dev_bus_frame=True, failed_unmap_ends_call=True, vma_pages=False,
    brought_by=(
        Difference("1429d46df4c5", "3.15",
                   "xen/grant-table: avoid m2p_override during mapping",
                   "maps for the kernel alone are neither listed nor marked"),
    ),
)
P2M_ONLY = KernelModel(
    name="p2m-only", first="4.0", last="5.11",
    overrides=False, overrides_need_user=False, marks_frontend=False, derefs_kmap_op=False,
    dev_bus_frame=True, failed_unmap_ends_call=True, vma_pages=True,
    brought_by=(
        Difference("667a0a06c99d", "4.0", "mm: provide a find_special_page vma operation",
                   "user mappings carry their pages, there is no override list"),
        Difference("923b2919e2c3", "4.0",
                   "xen/gntdev: mark userspace PTEs as special on x86 PV guests",
                   "GUP-fast keeps off granted pages"),
    ),
)
P2M_ONLY_CONTINUE = KernelModel(
    name="p2m-only-continue", first="5.12", last=None,
    overrides=False, overrides_need_user=False, marks_frontend=False, derefs_kmap_op=False,
    dev_bus_frame=True, failed_unmap_ends_call=False, vma_pages=True,
    brought_by=(
        Difference("a35f2ef3b737", "5.12",
                   "Xen/x86: don't bail early from clear_foreign_p2m_mapping()",
                   "an unmap that fails does not end its call"),
    ),
)

MODELS: dict[str, KernelModel] = {
    model.name: model
    for model in (OVERRIDE, LOCAL_FOREIGN, KMAP_ONLY, P2M_ONLY, P2M_ONLY_CONTINUE)
}
DEFAULT_MODEL = LOCAL_FOREIGN

# Stable 3.4.y took the fix in 3.4.10.
_FIRST_VERSIONS: tuple[tuple[Version, KernelModel], ...] = (
    ((2, 6, 38), OVERRIDE),
    ((3, 4, 10), LOCAL_FOREIGN),
    ((3, 15, 0), KMAP_ONLY),
    ((4, 0, 0), P2M_ONLY),
    ((5, 12, 0), P2M_ONLY_CONTINUE),
)
_VERSION = re.compile(r"v?(\d{1,4})\.(\d{1,4})(?:\.(\d{1,6}))?(?:[-+~._ ].*|rc\d+.*)?", re.DOTALL)


def version_of(kernel: str) -> Version:
    """The numbers of a Linux version such as ``3.10.72`` or ``6.1.0-9-amd64``.

    A model's name stands for the first version that behaves so. Raises UsageError, naming
    the nearest known model, for anything else.
    """
    match = _VERSION.fullmatch(MODELS[kernel].first if kernel in MODELS else kernel)
    if match is None and re.fullmatch(r"v?\d{1,4}\.?", kernel):
        raise UsageError(f"unknown kernel '{kernel}': a version has two numbers, as 3.4 or 6.1")
    if match is None:
        raise UsageError(unknown("kernel", kernel, MODELS) + "; or give a version as 3.10.72")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def model_for(kernel: str) -> KernelModel:
    """The model for a model's name or a Linux version such as ``3.10.72`` or ``6.1.0-9-amd64``.

    Raises UsageError, naming the nearest known model, for anything else and for versions
    before 2.6.38, which had no m2p override.
    """
    if kernel in MODELS:
        return MODELS[kernel]
    version = version_of(kernel)
    if version < _FIRST_VERSIONS[0][0]:
        raise UsageError(f"kernel '{kernel}': Linux before 2.6.38 had no m2p override")
    return [model for first, model in _FIRST_VERSIONS if first <= version][-1]


def bucket_of(mfn: int) -> int:
    """The override list's bucket of a frame: mfn_hash, arch/x86/xen/p2m.c.

    The top 10 bits of mfn * 0x9e37fffffffc0001 mod 2**64.
    """
    return (mfn * GOLDEN_RATIO_PRIME & (1 << 64) - 1) >> 64 - BUCKET_BITS
