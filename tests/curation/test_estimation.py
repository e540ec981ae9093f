"""Totals estimated from a few files: exact where nothing is uncertain, and ranges with the stated coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentsync.curation import estimation

sizes = st.lists(st.integers(0, 10**9), min_size=1, max_size=60).map(
    lambda values: {f"{n:04x}": value for n, value in enumerate(values)}
)


def drawn_arrays(groups, sample):
    """Stratum of each drawn item, and the ids, in the same order."""
    stratum = np.array([number for number, ids in enumerate(sample) for _ in ids])
    return stratum, [ident for ids in sample for ident in ids]


@given(sizes, st.integers(1, 30))
def test_strata_hold_every_file_once_and_about_equal_bytes(files, sample):
    groups = estimation.strata(files, sample)
    assert sorted(ident for group in groups for ident in group) == sorted(files)
    assert all(groups) and len(groups) <= max(1, sample // estimation.PER_STRATUM)
    ends = [(min(files[i] for i in group), max(files[i] for i in group)) for group in groups]
    assert all(before[1] <= after[0] for before, after in zip(ends, ends[1:], strict=False))
    if len(groups) > 1:
        count = max(1, min(estimation.MAX_STRATA, sample // estimation.PER_STRATUM))
        most = sum(files.values()) / count + max(files.values())
        assert all(sum(files[i] for i in group) <= most for group in groups)


@given(sizes, st.integers(1, 30))
def test_as_many_are_drawn_as_asked_and_a_smaller_sample_lies_in_a_larger(files, sample):
    groups = estimation.strata(files, sample)
    drawn = estimation.draw(groups, sample)
    assert sum(map(len, drawn)) == min(sample, len(files))
    assert all(set(few) <= set(group) for few, group in zip(drawn, groups, strict=True))
    more = estimation.draw(groups, sample + 5)
    assert all(set(few) <= set(many) for few, many in zip(drawn, more, strict=True))


def test_long_files_are_drawn_among_many_short_ones():
    """An hour among 500 jingles: half of the bytes, so it must not be left to luck."""
    files = {f"{n:04x}": 1_000_000 for n in range(500)} | {"ffff": 400_000_000, "fffe": 300_000_000}
    drawn = estimation.draw(estimation.strata(files, 8), 8)
    assert {"ffff", "fffe"} <= {ident for ids in drawn for ident in ids}


@settings(max_examples=50, deadline=None)
@given(sizes, st.integers(2, 12), st.floats(0, 100))
def test_totals_proportional_to_size_and_full_samples_are_exact(files, sample, per_byte):
    groups = estimation.strata(files, sample)
    known = [sum(files[ident] for ident in group) for group in groups]
    for wanted in (sample, len(files)):
        stratum, ids = drawn_arrays(groups, estimation.draw(groups, wanted))
        x = [files[ident] for ident in ids]
        factors = estimation.replicate_weights(stratum, [len(group) for group in groups])
        found = estimation.interval([per_byte * value for value in x], x, stratum, known, factors)
        if all(sum(v for v, s in zip(x, stratum, strict=True) if s == h) > 0 for h, b in enumerate(known) if b):
            assert found["value"] == pytest.approx(per_byte * sum(known))
    y = [(number * 37) % 11 for number in range(len(x))] if all(x) else x
    found = estimation.interval(y, x, stratum, known, factors)
    assert found["value"] == pytest.approx(sum(y)) == pytest.approx(found["low"]) == pytest.approx(found["high"])


def test_ranges_contain_the_truth_about_as_often_as_stated():
    """200 folders of 300 videos whose bit rate scatters by a third; 12 drawn of each. 90 % ranges from so few are a
    little narrow."""
    random = np.random.default_rng(5)
    inside = 0
    for trial in range(200):
        files = {f"{trial}-{n}": int(size) for n, size in enumerate(random.lognormal(16, 1, 300))}
        seconds = {ident: size / 250_000 * random.lognormal(0, 0.3) for ident, size in files.items()}
        groups = estimation.strata(files, 12)
        stratum, ids = drawn_arrays(groups, estimation.draw(groups, 12))
        factors = estimation.replicate_weights(stratum, [len(group) for group in groups])
        known = [sum(files[ident] for ident in group) for group in groups]
        found = estimation.interval([seconds[i] for i in ids], [files[i] for i in ids], stratum, known, factors)
        inside += found["low"] <= sum(seconds.values()) <= found["high"]
    assert 0.7 <= inside / 200 <= 0.97, inside
