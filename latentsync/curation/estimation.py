"""Estimating totals of many files from a few: strata by size, a stable sample, ratio estimates and their ranges.

Sources: W. G. Cochran, Sampling Techniques (3rd ed., 1977), 6.10 (separate ratio estimate) for the totals; J. N. K.
Rao, C. F. J. Wu and K. Yue, Survey Methodology 18 (1992), 209-217 (rescaled bootstrap weights) for the ranges.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

REPLICATES = 1000
RANGE = (0.05, 0.95)  # a range holds the middle 90 % of the replicates
PER_STRATUM = 3  # files that a stratum should give at least; with two an interval means little
MAX_STRATA = 4


def strata(sizes: Mapping[str, int], sample: int) -> list[list[str]]:
    """Ids in groups of about equal bytes, small files first, so that the long ones count as much as the many.

    `sizes`: id -> bytes; `sample`: how many will be drawn in all, which bounds the number of groups. None is empty.
    """
    count = max(1, min(MAX_STRATA, sample // PER_STRATUM))
    ordered = sorted(sizes, key=lambda ident: (sizes[ident], ident))
    total, before = sum(sizes.values()), 0
    groups: list[list[str]] = [[] for _ in range(count)]
    for ident in ordered:
        middle = before + sizes[ident] / 2
        groups[min(count - 1, int(count * middle / total)) if total else 0].append(ident)
        before += sizes[ident]
    return [group for group in groups if group]


def draw(
    groups: Sequence[Sequence[str]], sample: int, known: Collection[str] = frozenset(), most: int = 0
) -> list[list[str]]:
    """`sample` ids (all, where there are fewer), shared evenly among the groups; in each the first by stable rank.

    The rank is a hash of the id, so that new files change as little of the sample as possible. Ids that are `known`
    cost nothing: they are taken first, and up to `most` of them in each group.
    """
    wanted = [0] * len(groups)
    for _ in range(min(sample, sum(len(group) for group in groups))):
        open_groups = [number for number, group in enumerate(groups) if wanted[number] < len(group)]
        wanted[min(open_groups, key=lambda number: wanted[number])] += 1
    result = []
    for group, count in zip(groups, wanted, strict=True):
        ordered = sorted(group, key=lambda ident: (ident not in known, rank(ident)))
        result.append(ordered[: max(count, min(most, sum(ident in known for ident in group)))])
    return result


def rank(ident: str) -> str:
    """Sorting by this shuffles, always in the same way, and unlike the ids themselves, which also choose the shard."""
    return hashlib.sha256(f"estimate {ident}".encode()).hexdigest()


def replicate_weights(stratum: np.ndarray, population: Sequence[int]) -> np.ndarray:
    """Factors (REPLICATES, n) on the weights of n drawn items; `stratum` (n,) of each, `population`: items in each.

    In a stratum of N items of which m are drawn, m - 1 are drawn again with replacement; an item drawn k times gets
    1 - c + c k m / (m - 1) with c = sqrt(1 - m / N). So a stratum of which all was drawn adds nothing to a range.
    """
    random = np.random.default_rng(0)
    factors = np.ones((REPLICATES, len(stratum)))
    for number, size in enumerate(population):
        [members] = np.nonzero(stratum == number)
        m = len(members)
        if 1 < m < size:
            times = random.multinomial(m - 1, np.full(m, 1 / m), size=REPLICATES)
            c = np.sqrt(1 - m / size)
            factors[:, members] = 1 - c + c * times * m / (m - 1)
    return factors


def total(y: np.ndarray, x: np.ndarray, stratum: np.ndarray, known: Sequence[float], factors: np.ndarray) -> np.ndarray:
    """The estimated total of y for each row of `factors` (r, n): sum over strata of X_h * sum(w y) / sum(w x).

    `y`, `x`, `stratum`: (n,) of the drawn items; `known`: X_h, the known total of x in each stratum. A stratum in which
    all drawn x are zero adds nothing.
    """
    result = np.zeros(len(factors))
    for number, whole in enumerate(known):
        weights = factors * (stratum == number)
        below = weights @ x
        result += np.divide(whole * (weights @ y), below, out=np.zeros_like(below), where=below > 0)
    return result


def interval(
    y: Sequence[float], x: Sequence[float], stratum: np.ndarray, known: Sequence[float], factors: np.ndarray
) -> dict[str, float]:
    """{value, low, high} of the total of y: the estimate, and the RANGE of its replicates."""
    ys, xs = np.asarray(y, np.float64), np.asarray(x, np.float64)
    [value] = total(ys, xs, stratum, known, np.ones((1, len(ys))))
    low, high = np.quantile(total(ys, xs, stratum, known, factors), RANGE)
    return {"value": float(value), "low": float(min(low, value)), "high": float(max(high, value))}
