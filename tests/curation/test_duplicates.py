"""Hashes of clips and the search for near ones, against the plain definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentsync.curation import duplicates
from tests.sync.test_curves import mouth_of, speech

WORDS = st.integers(0, 2**64 - 1)


def bits(a: int, b: int) -> int:
    return (a ^ b).bit_count()


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=40))
def test_distances_count_bits(words):
    a, b = (np.array(column, np.uint64) for column in zip(*words, strict=True))
    assert duplicates.distance(a, b).tolist() == [bits(x, y) for x, y in words]


@given(
    seeds=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4),
    flips=st.lists(
        st.tuples(st.integers(0, 3), st.sets(st.integers(0, 63), max_size=9), st.sets(st.integers(0, 63), max_size=9)),
        max_size=20,
    ),
    max_bits=st.sampled_from([0, 1, 2, 4, 8]),
)
def test_the_search_finds_what_comparing_all_finds(seeds, flips, max_bits):
    """Clusters of hashes that differ in a few bits, any bits, and strangers."""
    words = list(seeds)
    for origin, *flipped in flips:
        masks = [sum(1 << bit for bit in each) for each in flipped]
        words.append(tuple(word ^ mask for word, mask in zip(seeds[origin % len(seeds)], masks, strict=True)))
    motion, image = (np.array(column, np.uint64) for column in zip(*words, strict=True))
    first = [words.index(word) for word in words]
    wanted = [
        [i, j]
        for i in range(len(words))
        for j in range(i + 1, len(words))
        if first[i] == i <= first[j]  # of equal ones the first stands for all
        if bits(words[i][0], words[j][0]) <= max_bits and bits(words[i][1], words[j][1]) <= max_bits
    ]
    assert duplicates.near_pairs(motion, image, max_bits).tolist() == wanted


def test_many_clips_are_searched_quickly():
    """20,000 strangers and 200 planted pairs exactly at the limit; comparing all would be 2e8 comparisons."""
    rng = np.random.default_rng(0)
    motion, image = rng.integers(0, 2**64, (2, 20_000), dtype=np.uint64)
    motion[10_000:10_200] = motion[:200] ^ np.uint64(0x8040201008040201)
    image[10_000:10_200] = image[:200] ^ np.uint64(0xFF)
    found = duplicates.near_pairs(motion, image, 8)
    assert found.tolist() == [[k, 10_000 + k] for k in range(200)]
    assert len(duplicates.near_pairs(motion, image, 7)) == 0


def test_a_thousand_copies_are_a_thousand_pairs():
    """An opening that recurs in every video, among strangers and one that is near it."""
    rng = np.random.default_rng(0)
    motion, image = rng.integers(0, 2**64, (2, 4_000), dtype=np.uint64)
    motion[100:3_100], image[100:3_100] = 7, 9
    motion[3_500], image[3_500] = 6, 9
    found = duplicates.near_pairs(motion, image, 8)
    assert found.tolist() == [[100, k] for k in [*range(101, 3_100), 3_500]]


def opening(seed: int, seconds: float = 4.0) -> np.ndarray:
    return mouth_of(speech(seed, seconds), round(25 * seconds), 0, 0.0, seed)


def test_hashes_of_one_movement_are_near_and_of_others_far():
    """Noise, gain, unseen ticks and a tick cut off at an end leave it near; other words lie around half of the bits."""
    rng = np.random.default_rng(0)
    originals = [opening(seed) for seed in range(30)]
    hashes = [int(duplicates.motion_hash(curve), 16) for curve in originals]
    for curve, word in zip(originals, hashes, strict=True):
        noisy = 0.8 * curve + 0.03 * curve.std() * rng.standard_normal(len(curve)) + 0.02
        noisy[10:13] = np.nan
        assert bits(int(duplicates.motion_hash(noisy), 16), word) <= 8
    apart = [bits(a, b) for k, a in enumerate(hashes) for b in hashes[:k]]
    assert min(apart) > 12 and np.median(apart) == pytest.approx(32, abs=2)


def test_a_mouth_at_rest_or_unseen_has_no_hash():
    rng = np.random.default_rng(0)
    assert duplicates.motion_hash(0.1 + 0.003 * rng.standard_normal(100)) is None
    assert duplicates.motion_hash(np.full(100, np.nan)) is None
    mostly = opening(1)
    mostly[20:] = np.nan
    assert duplicates.motion_hash(mostly) is None
    assert duplicates.motion_hash(np.array([0.3])) is None


def test_images_keep_their_hash_through_scaling_and_grain():
    from skimage import data, transform

    image = data.astronaut()[:256, 100:356]
    small = np.uint8(255 * transform.resize(image, (96, 96), anti_aliasing=True))
    words = [int(duplicates.picture_hash(rgb), 16) for rgb in (image, small, np.rot90(image))]
    assert bits(*words[:2]) <= 4 and bits(words[0], words[2]) > 12
    assert duplicates.as_numbers(["ffffffffffffffff", "0000000000000001"]).tolist() == [2**64 - 1, 1]
