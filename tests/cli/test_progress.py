"""The progress bar: on a terminal, and nowhere else."""

from __future__ import annotations

import io

import pytest

from xenm2p.cli import progress
from xenm2p.cli.progress import progress_line, with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, *, wanted: bool = True) -> str:
    pieces = with_progress(iter([b"12", b"3456"]), len, 6, wanted=wanted, stream=stream)
    assert list(pieces) == [b"12", b"3456"]
    return stream.getvalue()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0)
    monkeypatch.setattr(progress, "_INTERVAL", 0)


def test_a_terminal_shows_it_and_is_left_clean() -> None:
    text = shown(Terminal())
    assert "33% 2 of 6 events" in text
    assert text.endswith("\r\x1b[K")


def test_a_file_does_not_show_it() -> None:
    assert shown(io.StringIO()) == ""


def test_no_progress_does_not_show_it() -> None:
    assert shown(Terminal(), wanted=False) == ""


def test_an_unknown_length_gives_only_the_count() -> None:
    assert progress_line(1234567, None) == "1,234,567 events"


def test_more_events_than_announced_stay_at_100_percent() -> None:
    assert progress_line(12, 10).startswith("[" + "#" * 30 + "] 100%")
