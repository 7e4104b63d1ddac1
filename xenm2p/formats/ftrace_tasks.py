"""ftrace text: the bytes of a line that name its task -> task numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class TaskNames:
    """The tasks of a capture, numbered as they appear; files that are merged share one.

    `names` are ``comm-pid``; `idle` the numbers of pid 0, of which every cpu has a task.
    """

    names: list[str] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    _number_of: dict[bytes, int] = field(default_factory=dict)
    _number_of_field: dict[tuple[re.Pattern[bytes], bytes], int] = field(default_factory=dict)

    def number(self, comm: bytes, pid: bytes) -> int:
        """The number of a task by its name and pid."""
        name = comm.lstrip(b" ") + b"-" + pid
        number = self._number_of.get(name)
        if number is None:
            number = self._number_of[name] = len(self.names)
            self.names.append(name.decode("utf-8", "backslashreplace"))
            if int(pid) == 0:
                self.idle.append(number)
        return number

    def numbers(self, fields: NDArray[np.uint8], pattern: re.Pattern[bytes]) -> (
            NDArray[np.int32]):
        """Task numbers of (n, width) bytes that `pattern` takes apart; -1 where it cannot."""
        return _of_each(fields, lambda text: self._of_field(text, pattern))

    def numbers_of(self, pid: NDArray[np.uint64], comm: NDArray[np.uint8],
                   length: NDArray[np.int64]) -> NDArray[np.int32]:
        """Task numbers of pids and (n, width) bytes that begin with a name of some length."""
        width = comm.shape[1]
        fields = np.zeros((len(pid), 9 + width), np.uint8)
        fields[:, :8] = np.ascontiguousarray(pid.astype("<u8")).view(np.uint8).reshape(-1, 8)
        fields[:, 8] = length
        fields[:, 9:] = np.where(np.arange(width) < length[:, None], comm, 0)

        def number(text: bytes) -> int:
            return self.number(text[9 : 9 + text[8]], b"%d" % int.from_bytes(text[:8], "little"))

        return _of_each(fields, number)

    def _of_field(self, text: bytes, pattern: re.Pattern[bytes]) -> int:
        number = self._number_of_field.get((pattern, text))
        if number is None:
            match = pattern.fullmatch(text)
            number = -1 if match is None else self.number(match["comm"], match["pid"])
            self._number_of_field[pattern, text] = number
        return number


def _of_each(fields: NDArray[np.uint8], number: Callable[[bytes], int]) -> NDArray[np.int32]:
    """`number` of each row of (n, width) bytes, asked once for rows that are equal."""
    count, width = fields.shape
    if not count:
        return np.zeros(0, np.int32)
    words = np.zeros((count, -(-width // 8) * 8), np.uint8)
    words[:, :width] = fields
    keys = words.view(np.uint64)
    mixed = np.zeros(count, np.uint64)
    for column in keys.T:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    _, first, which = np.unique(mixed, return_index=True, return_inverse=True)
    numbers = np.zeros(len(first), np.int32)
    for i in np.argsort(first).tolist():  # numbered as they appear
        numbers[i] = number(bytes(fields[first[i]]))
    task = numbers[which]
    collided = (keys != keys[first][which]).any(axis=1)
    for row in np.flatnonzero(collided).tolist():
        task[row] = number(bytes(fields[row]))
    return task
