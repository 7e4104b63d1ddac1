"""The fast path's tables: what the lines of each section may hold, in the form of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xenm2p.formats.numbers import Bools
from xenm2p.formats.yaml_rows import EVENT_COLUMNS, RUN_COLUMNS, ColumnSpecs
from xenm2p.formats.yaml_schema import EVENT_ROWS, RUN_ROWS, Row
from xenm2p.trace import I64, U64

# The keys whose values are words, not numbers.
KIND, USER, TASK = "kind", "user", "task"


def word_of(text: bytes) -> int:
    """Up to 8 bytes as the word that `words_of` finds there, the rest 0."""
    return int.from_bytes(text[:8], "little")


@dataclass(frozen=True, slots=True)
class Names:
    """A set of names of up to 16 bytes, found by a hash without collisions.

    `slots[h]` is the index of the name whose hash is h, or len(names) for none.
    """

    names: tuple[str, ...]
    low: U64
    high: U64
    size: I64
    factor: np.uint64
    slots: NDArray[np.int64]

    @classmethod
    def of(cls, names: list[str]) -> Names:
        """The table for `names`, with the first odd factor that keeps them apart."""
        low = np.array([word_of(name.encode()) for name in names] + [0], dtype=np.uint64)
        high = np.array([word_of(name.encode()[8:]) for name in names] + [0], dtype=np.uint64)
        factor = 0x9E3779B97F4A7C15
        while True:
            hashes = _hash(low[:-1], high[:-1], np.uint64(factor))
            if len(set(hashes.tolist())) == len(names):
                break
            factor += 2
        slots = np.full(_SLOTS, len(names), dtype=np.int64)
        slots[hashes] = np.arange(len(names))
        size = np.array([len(name) for name in names] + [0], dtype=np.int64)
        return cls(tuple(names), low, high, size, np.uint64(factor), slots)

    def find(self, low: U64, high: U64 | np.uint64, size: I64) -> tuple[I64, Bools]:
        """Index of each name given by its two words and its length; whether there is one.

        The length tells a name from one with NUL bytes after it, which has the same words.
        """
        index = self.slots[_hash(low, high, self.factor)]
        is_known = (self.low[index] == low) & (self.high[index] == high)
        return index, is_known & (self.size[index] == size) & (index < len(self.names))


_SLOTS = 256


def _hash(low: U64, high: Any, factor: np.uint64) -> I64:
    mixed = (low ^ high * np.uint64(0xC2B2AE3D27D4EB4F)) * factor
    slot: I64 = (mixed >> np.uint64(56)).astype(np.int64)
    return slot


@dataclass(frozen=True, slots=True)
class LineTable:
    """What the lines of one section may hold, in the form of arrays.

    Arrays over rows are by the row's place in `rows`, over keys by its place in `keys`.
    `needed`, `allowed`: key sets as bit masks. `least`, `most`: what a number may be;
    `least_negative`: the magnitude of the least that is negative. `form`: (row, key) ->
    `yaml_schema.Form`. `n_bits[mask]`: how many keys a set has.
    """

    rows: tuple[Row, ...]
    kinds: Names | None
    keys: Names
    columns: tuple[str, ...]
    is_number: Bools
    least: U64
    most: U64
    least_negative: U64
    needed: I64
    allowed: I64
    form: NDArray[np.int8]
    n_bits: NDArray[np.int8]
    specs: ColumnSpecs

    @classmethod
    def of(cls, rows: list[Row], specs: ColumnSpecs) -> LineTable:
        """The table for a section whose rows are of these kinds and make these columns."""
        has_kind = KIND in specs
        fields = {key: field for row in rows for key, field in row.fields.items()}
        keys = ([KIND] if has_kind else []) + list(fields)
        bit = {key: 1 << place for place, key in enumerate(keys)}
        always = bit.get(KIND, 0)
        return cls(
            rows=tuple(rows),
            kinds=Names.of([row.name for row in rows]) if has_kind else None,
            keys=Names.of(keys),
            columns=tuple(fields[key].column if key in fields else key for key in keys),
            is_number=np.array([key not in (KIND, USER, TASK) for key in keys]),
            most=np.array([fields[key].high if key in fields else 0 for key in keys],
                          dtype=np.uint64),
            least=np.array([max(fields[key].low, 0) if key in fields else 0 for key in keys],
                           dtype=np.uint64),
            least_negative=np.array(
                [max(-fields[key].low, 0) if key in fields else 0 for key in keys],
                dtype=np.uint64),
            needed=np.array([always | sum(bit[key] for key in row.needs) for row in rows]),
            allowed=np.array([always | sum(bit[key] for key in row.fields) for row in rows]),
            form=np.array([[row.fields[key].form if key in row.fields else 0 for key in keys]
                           for row in rows], dtype=np.int8),
            n_bits=np.array([bin(mask).count("1") for mask in range(1 << len(keys))],
                            dtype=np.int8),
            specs=specs,
        )


TABLES: dict[str, LineTable] = {
    "events": LineTable.of(sorted(EVENT_ROWS.values(), key=lambda row: row.kind), EVENT_COLUMNS),
    "memory": LineTable.of([RUN_ROWS["memory"]], RUN_COLUMNS),
    "m2p": LineTable.of([RUN_ROWS["m2p"]], RUN_COLUMNS),
}
