"""Errors: one line that names file, place and reason, with the exit status of the kind."""

from __future__ import annotations

import pytest

from xenm2p.errors import (
    InputError,
    OutputError,
    UsageError,
    XenM2PError,
    nearest,
    unknown,
)


@pytest.mark.parametrize(
    ("error", "status"), [(UsageError, 2), (InputError, 3), (OutputError, 3)])
def test_an_error_carries_its_exit_status(error: type[XenM2PError], status: int) -> None:
    assert error("why").exit_code == status


def test_every_error_is_caught_as_one() -> None:
    for error in (UsageError, InputError, OutputError):
        assert issubclass(error, XenM2PError)


@pytest.mark.parametrize(("source", "place", "text"), [
    ("capture.txt", 214, "capture.txt:214: 'mfn' is missing"),
    ("trace.xm2p", "byte 96", "trace.xm2p:byte 96: 'mfn' is missing"),
    ("-", None, "-: 'mfn' is missing"),
    (None, 214, "214: 'mfn' is missing"),
    (None, None, "'mfn' is missing"),
])
def test_an_input_error_is_one_line(
    source: str | None, place: int | str | None, text: str
) -> None:
    assert str(InputError("'mfn' is missing", source=source, place=place)) == text


def test_line_zero_is_a_place() -> None:
    assert str(InputError("why", source="x", place=0)) == "x:0: why"


def test_the_parts_of_an_input_error_can_be_had_one_by_one() -> None:
    error = InputError("why", source="x", place=3)
    assert (error.reason, error.source, error.place) == ("why", "x", 3)


def test_a_near_miss_is_named() -> None:
    assert nearest("unmpa", ["map", "unmap"]) == " (did you mean 'unmap'?)"


def test_nothing_near_names_nothing() -> None:
    assert nearest("qqq", ["map", "unmap"]) == ""


def test_an_unknown_name_gets_the_nearest_known_one() -> None:
    assert unknown("kind", "dio_raed", ["dio_read", "lookup"]) == (
        "unknown kind 'dio_raed' (did you mean 'dio_read'?)")


def test_a_name_like_none_gets_all_known_ones() -> None:
    assert unknown("kind", "zzz", iter(["map", "unmap"])) == (
        "unknown kind 'zzz' (known: map, unmap)")
