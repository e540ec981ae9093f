"""Clips that show the same thing in other bytes: re-encoded, rescaled, downloaded twice. Hashes, and their search.

Copies that begin elsewhere are found by curation/footage.py.

All aligned faces look alike, above all those of one person, so a single frame says little; how a mouth moves over
seconds hardly repeats. Two clips count as one only if both hashes are near. Hashes are 64 bits, 16 hex digits.

Axes: n clips, t ticks.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

import numpy as np

BITS = 64
STILL_MOUTH = 0.01  # standard deviation of an opening below which a mouth is still (sync/curves.py), and has no hash
# Pieces that a near pair is looked up by. For random hashes at 8 bits two would give seven times as many candidates,
# four three times as many sorts.
SHARED = 3


def motion_hash(opening: np.ndarray) -> str | None:
    """Hash of a mouth opening (t,), NaN where unknown; None where the mouth is still or mostly unseen.

    The curve is averaged down to 64 values, less their mean, and projected on 64 fixed orthogonal vectors (a Hadamard
    matrix with random signs); the signs of that are the bits. Two curves of correlation r differ in about
    64 arccos(r) / pi bits (Charikar, "Similarity estimation techniques from rounding algorithms", 2002), whatever
    their length and gain.
    """
    from scipy.linalg import hadamard

    known = np.isfinite(opening)
    if known.sum() < max(2, len(opening) / 2):
        return None
    filled = np.interp(np.arange(len(opening)), np.flatnonzero(known), opening[known])
    total = np.concatenate([[0.0], np.cumsum(filled)])
    places = np.linspace(0, len(filled), BITS + 1)
    values = np.diff(np.interp(places, np.arange(len(total)), total))
    values = values / (places[1] - places[0])
    if values.std() < STILL_MOUTH:
        return None
    signs = np.unpackbits(np.frombuffer(hashlib.sha256(b"mouth").digest()[: BITS // 8], np.uint8)) * 2.0 - 1
    return _hex(hadamard(BITS) @ (signs * (values - values.mean())) > 0)


def picture_hash(rgb: np.ndarray) -> str:
    """Perceptual hash (DCT, ImageHash's phash) of an image uint8 (h, w, 3)."""
    import imagehash
    from PIL import Image

    return _hex(imagehash.phash(Image.fromarray(rgb)).hash.ravel())


def _hex(bits: np.ndarray) -> str:
    return np.packbits(bits).tobytes().hex()


def as_numbers(hashes: Sequence[str]) -> np.ndarray:
    """Hex digits -> uint64 [n]."""
    return np.array([int(text, 16) for text in hashes], np.uint64)


def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Differing bits of uint64 [n] and uint64 [n]: uint8 [n]."""
    return np.unpackbits((a ^ b).view(np.uint8).reshape(-1, 8), axis=1).sum(1, dtype=np.uint8)


def near_pairs(motion: np.ndarray, image: np.ndarray, max_bits: int) -> np.ndarray:
    """Pairs i < j whose two hashes, uint64 [n] each, differ in at most `max_bits` each: int64 [m, 2], sorted.

    Of clips with equal hashes only the first is paired with others, and it with all of them: a thousand copies of one
    opening make a thousand pairs, not half a million.
    """
    assert motion.shape == image.shape and 0 <= max_bits < BITS - SHARED, (motion.shape, image.shape, max_bits)
    _, first, kind = np.unique(np.stack([motion, image], 1), axis=0, return_index=True, return_inverse=True)
    kind = kind.reshape(-1)
    distinct = np.sort(first)  # the first clip of each pair of hashes, in order
    members = np.argsort(first[kind], kind="stable")  # clips, those of equal hashes together
    starts = np.searchsorted(first[kind][members], [distinct, distinct + 1])
    groups = [members[a:b] for a, b in starts.T]
    pairs = [np.stack([np.full(len(group) - 1, group[0]), group[1:]], 1) for group in groups if len(group) > 1]
    for a, b in _near_distinct(motion[distinct], image[distinct], max_bits).tolist():
        pairs.append(np.stack([np.full(len(groups[b]), groups[a][0]), groups[b]], 1))
    return np.unique(np.concatenate([np.zeros((0, 2), np.int64), *pairs]), axis=0)


def _near_distinct(motion: np.ndarray, image: np.ndarray, max_bits: int) -> np.ndarray:
    """All near pairs i < j.

    Multi-index hashing (Norouzi, Punjani, Fleet 2012) with exact look-ups: of max_bits + 3 pieces of the motion hash a
    near pair has three in common, so hashes are sorted by every choice of three, and runs of equals are compared.
    """
    found = np.zeros((0, 2), np.int64)
    for chosen in combinations(_pieces(max_bits + SHARED), SHARED):
        key = motion & np.bitwise_or.reduce(np.array(chosen, np.uint64))
        order = np.argsort(key, kind="stable")
        ranked = key[order]
        place, lag, new = np.arange(len(key)), 1, [found]
        while len(place):  # places whose run of equals reaches `lag` further
            place = place[place + lag < len(key)]
            place = place[ranked[place] == ranked[place + lag]]
            i, j = order[place], order[place + lag]
            near = (distance(motion[i], motion[j]) <= max_bits) & (distance(image[i], image[j]) <= max_bits)
            new.append(np.stack([i[near], j[near]], 1))
            lag += 1
        found = np.unique(np.concatenate(new), axis=0) if sum(map(len, new[1:])) else found
    return found


def _pieces(number: int) -> list[int]:
    """64 bits cut into so many masks of about equal length."""
    edges = [round(k * BITS / number) for k in range(number + 1)]
    return [(1 << high) - (1 << low) for low, high in pairwise(edges)]


def covered(intervals: Iterable[tuple[int, int]]) -> int:
    """Length of the union of half-open intervals."""
    total, reached = 0, None
    for start, end in sorted(intervals):
        total += max(0, end - (start if reached is None else max(start, reached)))
        reached = end if reached is None else max(end, reached)
    return total
