"""xenm2p's readers give the events that a plain loop over the lines gives, in every form.

The plain readers are the benchmark's peers: written apart, with a regular expression and a
few dicts, for captures without losses.
"""

from __future__ import annotations

import lzma

import pytest

from tests.benchmarks.bench_ftrace import CAPTURES, FORMS, Form, check, repeated
from xenm2p.formats.detect import format_of


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_the_same_events(form: Form) -> None:
    text = form.make(lzma.decompress((CAPTURES / f"{form.capture}.txt.xz").read_bytes()))
    found = format_of(text[:8192])
    assert found is not None
    assert found.name == form.plain
    assert check(form, text) > 100


def test_repeated_text_goes_on_in_time() -> None:
    form = FORMS["trace"]
    text = lzma.decompress((CAPTURES / "gntdev-badref.txt.xz").read_bytes())
    times = form.read(repeated(text, 3 * len(text), form)).events().time.tolist()
    assert times == sorted(times)
    assert len(times) == 3 * len(form.read(text).events())
