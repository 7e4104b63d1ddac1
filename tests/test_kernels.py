"""Kernel models: which Linux version behaves as which, and what each is made of."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenm2p.errors import UsageError
from xenm2p.kernels import (
    DEFAULT_MODEL,
    MODELS,
    KernelModel,
    bucket_of,
    model_for,
)
from xenm2p.trace import INVALID, MAX_FRAME

VERSIONS = {
    "2.6.38": "override",
    "2.6.39.4": "override",
    "3.0": "override",
    "3.4": "override",
    "3.4.0": "override",
    "3.4.9": "override",
    "3.4.10": "local-foreign",
    "3.4.113": "local-foreign",
    "3.5-rc1": "local-foreign",
    "3.5": "local-foreign",
    "3.14.79": "local-foreign",
    "3.15-rc1": "kmap-only",
    "3.15": "kmap-only",
    "3.19.8": "kmap-only",
    "4.0": "p2m-only",
    "4.0rc1": "p2m-only",
    "5.11.22": "p2m-only",
    "5.12": "p2m-only-continue",
    "6.1.0-56-amd64": "p2m-only-continue",
    "v6.4": "p2m-only-continue",
    "6.8.0+": "p2m-only-continue",
    "7.0.0_custom": "p2m-only-continue",
}


@pytest.mark.parametrize(("version", "name"), VERSIONS.items())
def test_a_version_behaves_as(version: str, name: str) -> None:
    assert model_for(version) is MODELS[name]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_goes_by_its_name(name: str) -> None:
    assert model_for(name).name == name


@pytest.mark.parametrize(
    "kernel", ["", "x", "3", "3.", ".4", "three.four", "3,4", "-3.4",
               " 3.4", "3.4x", "99999.1", "Override"])
def test_what_is_neither_is_refused(kernel: str) -> None:
    with pytest.raises(UsageError, match="unknown kernel"):
        model_for(kernel)


def test_the_error_names_the_nearest_model() -> None:
    with pytest.raises(UsageError, match="did you mean 'local-foreign'"):
        model_for("local-foriegn")


@pytest.mark.parametrize("version", ["2.6.32", "2.6.37.6", "2.4.0", "0.1"])
def test_a_kernel_without_an_override_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match=r"before 2\.6\.38"):
        model_for(version)


@given(st.text(max_size=20))
def test_any_text_gives_a_model_or_a_usage_error(text: str) -> None:
    try:
        assert model_for(text) in MODELS.values()
    except UsageError as error:
        assert "kernel" in str(error)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_the_first_and_last_version_of_a_model_behave_as_it(model: KernelModel) -> None:
    assert model_for(model.first) is model
    assert model.last is None or model_for(model.last) is model


def test_every_difference_carries_its_commit() -> None:
    for model in MODELS.values():
        assert model.brought_by
        for difference in model.brought_by:
            assert re.fullmatch("[0-9a-f]{12}", difference.commit)
            assert difference.version == model.first
            assert difference.subject


FIELDS: dict[str, Callable[[KernelModel], bool]] = {
    "override": lambda m: m.overrides and not m.marks_frontend and m.derefs_kmap_op,
    "local-foreign": lambda m: m.overrides and m.marks_frontend and not m.overrides_need_user,
    "kmap-only": lambda m: m.marks_frontend and m.overrides_need_user and m.dev_bus_frame,
    "p2m-only": lambda m: not m.overrides and m.vma_pages and m.failed_unmap_ends_call,
    "p2m-only-continue": lambda m: m.vma_pages and not m.failed_unmap_ends_call,
}


@pytest.mark.parametrize("name", FIELDS)
def test_what_a_model_does(name: str) -> None:
    assert FIELDS[name](MODELS[name])


def test_only_the_first_model_follows_the_kmap_op_blindly() -> None:
    assert [name for name, model in MODELS.items() if model.derefs_kmap_op] == ["override"]


def test_local_foreign_is_meant_where_nothing_is_said() -> None:
    assert DEFAULT_MODEL is MODELS["local-foreign"]


def test_the_versions_as_a_person_writes_them() -> None:
    assert MODELS["kmap-only"].versions == "3.15-3.19"
    assert MODELS["p2m-only-continue"].versions == "5.12 and later"


# The top ten bits of mfn * 0x9e37fffffffc0001 mod 2**64, worked out by hand for 1 and 2:
# 0x9e37... is 1001 1110 00|11 0111 in binary, twice it 0011 1100 01|10 1111.
@pytest.mark.parametrize(("mfn", "bucket"), [(0, 0), (1, 0b1001111000), (2, 0b0011110001)])
def test_the_bucket_of_a_frame(mfn: int, bucket: int) -> None:
    assert bucket_of(mfn) == bucket


@given(st.integers(0, MAX_FRAME) | st.just(INVALID))
def test_there_are_1024_buckets(mfn: int) -> None:
    assert 0 <= bucket_of(mfn) < 1024


@pytest.mark.parametrize("kernel", ["6", "v4", "3."])
def test_a_version_of_one_number_says_what_is_missing(kernel: str) -> None:
    with pytest.raises(UsageError, match=r"a version has two numbers, as 3\.4 or 6\.1"):
        model_for(kernel)
