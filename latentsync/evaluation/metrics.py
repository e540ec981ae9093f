"""Statistics on arrays: correlation, PSNR, area under the ROC curve, bootstrap intervals. No file is read here.

What cannot be computed (constant signal, nothing measured) is NaN; the caller gives the reason.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import mannwhitneyu

MIN_PAIRED = 8  # fewer paired samples give no correlation
PEAK = 255.0
TAIL = (1 - 0.95) / 2  # of bootstrap intervals


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two series of the same length, over the places where both are finite.

    NaN where fewer than MIN_PAIRED places are left or one of the two is constant.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < MIN_PAIRED:
        return float("nan")
    a, b = a[both] - a[both].mean(), b[both] - b[both].mean()
    scale = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / scale) if scale > 1e-12 else float("nan")


def best_lag(a: np.ndarray, b: np.ndarray, max_lag: int) -> tuple[float, int]:
    """The highest correlation of a(k + lag) with b(k) over |lag| <= max_lag, and its lag (> 0: a is late)."""
    scores = {}
    for lag in sorted(range(-max_lag, max_lag + 1), key=abs):  # ties go to the smaller lag
        head, tail = max(lag, 0), max(-lag, 0)
        n = len(a) - head - tail
        scores[lag] = correlation(a[head : head + n], b[tail : tail + n]) if n > 0 else float("nan")
    known = {lag: score for lag, score in scores.items() if np.isfinite(score)}
    if not known:
        return float("nan"), 0
    lag = max(known, key=known.__getitem__)
    return known[lag], lag


def sample_at(times_s: np.ndarray, values: np.ndarray, rate_hz: float) -> np.ndarray:
    """`values` (sample k at k / rate_hz seconds) read linearly at `times_s`; NaN before the first and past the last."""
    at = np.asarray(times_s, np.float64) * rate_hz
    return np.interp(at, np.arange(len(values)), np.asarray(values, np.float64), left=np.nan, right=np.nan)


def psnr_db(squared_error: float, count: int) -> float:
    """Peak signal-to-noise ratio from a sum of squared errors over `count` samples; infinite when nothing differs."""
    assert count > 0
    return float("inf") if squared_error == 0 else float(10 * np.log10(PEAK**2 * count / squared_error))


def squared_error(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> tuple[float, int]:
    """Sum of squared differences of two images (h, w) over the pixels `where` (h, w) bool, and their number."""
    difference = a.astype(np.float64)[where] - b.astype(np.float64)[where]
    return float((difference**2).sum()), int(where.sum())


def auc(cosines: np.ndarray, labels: np.ndarray) -> float:
    """Area under the ROC curve: the chance that an in-sync pair scores above an off-sync one, ties one half."""
    labels = np.asarray(labels, bool)
    positive, negative = cosines[labels], cosines[~labels]
    if not len(positive) or not len(negative):
        return float("nan")
    return float(mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative)))


def bootstrap(
    values: Sequence[float],
    groups: Sequence[object] | None = None,
    statistic: Callable[[np.ndarray], float] = np.mean,
    *,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """95 % percentile interval of a statistic; whole groups are drawn, since items of one clip are not independent.

    NaN twice for fewer than two groups: one group says nothing about the spread between groups.
    """
    array = np.asarray(values, np.float64)
    names = list(range(len(array))) if groups is None else list(groups)
    assert len(names) == len(array), (len(names), len(array))
    members: dict[object, list[int]] = {}
    for index, name in enumerate(names):
        members.setdefault(name, []).append(index)
    if len(members) < 2:
        return float("nan"), float("nan")
    rows = [np.asarray(rows) for rows in members.values()]
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(rows), size=(resamples, len(rows)))
    results = [statistic(array[np.concatenate([rows[i] for i in draw])]) for draw in draws]
    low, high = np.quantile(results, [TAIL, 1 - TAIL])
    return float(low), float(high)
