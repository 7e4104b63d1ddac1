"""The machine of a synthetic workload: its pages, frames and tasks, and plain shares."""

from __future__ import annotations

from dataclasses import dataclass

from xenm2p.formats.workloads_shares import (
    MAP,
    UNMAP,
    USE,
    Draws,
    Part,
    Rings,
    Shares,
    order,
    part,
)
from xenm2p.trace import I64, INVALID, Column, Kind, Runs

FRONTEND_PFN = 0x1000
OWN_MFN = 0x50000
OWNER_PFN = 0x200  # of the first foreign frame, in its owner's p2m
SPARE_PAGES = 16  # ballooned-out pages that no share uses
FIRST_REF = 8  # the first ones are the toolstack's, GNTTAB_NR_RESERVED_ENTRIES

TASKS = ("mount-1042", "qemu-dm-1713")
FRONTEND_TASK, BACKEND_TASK = range(2)


@dataclass(frozen=True, slots=True)
class Site:
    """Where frame f, page p (0-based) of a workload are.

    The frames are dom0's own, or, with `foreign`, those of domain 1; dom0 has as many
    frames of its own all the same.
    """

    frames: int
    in_flight: int
    rings: Rings
    foreign: bool

    @property
    def domid(self) -> int:
        """The domain that grants."""
        return 1 if self.foreign else 0

    @property
    def backend_pfn(self) -> int:
        """The first backend page: above all pages with frames."""
        return _rounded_up(FRONTEND_PFN + self.frames)

    @property
    def first_mfn(self) -> int:
        """The machine frame of frame 0."""
        return _rounded_up(OWN_MFN + self.frames) if self.foreign else OWN_MFN

    @property
    def spare_pfn(self) -> int:
        """The first of `SPARE_PAGES` ballooned-out pages that no share uses."""
        return self.backend_pfn + self.rings.pages

    @property
    def memory(self) -> Runs:
        """The p2m before the first event."""
        own = (FRONTEND_PFN, OWN_MFN, self.frames)
        return Runs.of([own, (self.backend_pfn, INVALID, self.rings.pages + SPARE_PAGES)])

    @property
    def m2p(self) -> Runs:
        """The m2p entries of foreign frames: they name the owner's pages."""
        return Runs.of([(self.first_mfn, OWNER_PFN, self.frames)] if self.foreign else [])

    def mfn(self, frame: I64) -> I64:
        """The machine frames of frames."""
        return self.first_mfn + frame

    def frontend(self, frame: I64) -> I64:
        """The pages that hold dom0's own frames."""
        return FRONTEND_PFN + frame

    def backend(self, shares: Shares) -> I64:
        """The backend pages of shares."""
        return self.backend_pfn + shares.page

    def ref(self, shares: Shares) -> I64:
        """The grant references of shares."""
        return FIRST_REF + shares.ref

    def mapped(self, shares: Shares, key: I64 | None = None, **columns: Column | int) -> Part:
        """The map of each share; `key` and `columns` win over what it would say."""
        if key is None:
            key = order(shares.map_step, MAP, shares.map_place)
        plain: dict[str, Column | int] = {
            "mfn": self.mfn(shares.frame), "pfn": self.backend(shares), "user": 1,
            "domid": self.domid, "ref": self.ref(shares), "handle": shares.handle,
            "call": 2 * shares.map_step, "task": BACKEND_TASK,
        }
        return part(Kind.MAP, key, **(plain | columns))

    def unmapped(self, shares: Shares, key: I64 | None = None, **columns: Column | int) -> Part:
        """The unmap of each share; `key` and `columns` win over what it would say."""
        if key is None:
            key = order(shares.unmap_step, UNMAP, shares.unmap_place)
        plain: dict[str, Column | int] = {
            "pfn": self.backend(shares), "user": 1, "domid": self.domid,
            "ref": self.ref(shares), "handle": shares.handle,
            "call": 2 * shares.unmap_step + 1, "task": BACKEND_TASK,
        }
        return part(Kind.UNMAP, key, **(plain | columns))

    def mapped_and_unmapped(self, shares: Shares) -> list[Part]:
        """The two events of shares that are only mapped and unmapped."""
        return [self.mapped(shares), self.unmapped(shares)]

    def granted(self, shares: Shares, key: I64) -> Part:
        """The grant of each share's frame."""
        return part(Kind.GRANT, key, ref=self.ref(shares), domid=0,
                    mfn=self.mfn(shares.frame), task=FRONTEND_TASK)

    def ended(self, shares: Shares, key: I64) -> Part:
        """The end of access to each share's frame."""
        return part(Kind.END_GRANT, key, ref=self.ref(shares), task=FRONTEND_TASK)

    def use_key(self, draws: Draws, shares: Shares, stream: str = "use") -> I64:
        """The order of one event of each share at some time while it is mapped."""
        steps = shares.unmap_step - shares.map_step + 1
        step = shares.map_step + draws.below(stream, steps, shares.number)
        return order(step, USE, shares.number)


def _rounded_up(frame: int) -> int:
    return -(-frame // 0x1000) * 0x1000
