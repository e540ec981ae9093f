"""Scores on arrays: known answers, edge cases, and intervals that cover the truth as often as they claim."""

from functools import partial

import numpy as np
import pytest

from latentsync.evaluation import metrics


def test_correlation_ignores_missing_samples_and_refuses_constants():
    generator = np.random.default_rng(0)
    truth = generator.random(50)
    measured = 3 * truth + 1
    measured[::7] = np.nan
    assert metrics.correlation(measured, truth) == pytest.approx(1)
    assert metrics.correlation(-measured, truth) == pytest.approx(-1)
    assert np.isnan(metrics.correlation(np.ones(50), truth))
    assert np.isnan(metrics.correlation(measured[:5], truth[:5]))


def test_correlation_equals_numpy():
    a, b = np.random.default_rng(1).random((2, 30))
    assert metrics.correlation(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])


@pytest.mark.parametrize("lag", [-4, 0, 3])
def test_best_lag_is_positive_when_the_first_comes_late(lag):
    audio = np.random.default_rng(2).random(80)
    mouth = np.roll(audio, lag)
    score, found = metrics.best_lag(mouth, audio, 6)
    assert found == lag and score == pytest.approx(1)


def test_sample_at_is_linear_and_nan_outside():
    read = metrics.sample_at(np.array([-0.1, 0.0, 0.02, 0.04, 0.08, 0.09]), np.array([0.0, 1.0, 0.0]), 25)
    np.testing.assert_allclose(read, [np.nan, 0, 0.5, 1, 0, np.nan], atol=1e-12)


def test_psnr_counts_only_the_given_pixels():
    a = np.zeros((4, 4), np.uint8)
    b = a.copy()
    b[0, 0] = 200
    b[3, 3] = 1
    outside = np.ones((4, 4), bool)
    outside[0, 0] = False
    total, count = metrics.squared_error(a, b, outside)
    assert (total, count) == (1, 15)
    assert metrics.psnr_db(total, count) == pytest.approx(10 * np.log10(255**2 * 15))
    assert metrics.psnr_db(0, 15) == float("inf")


def test_unsigned_differences_do_not_wrap():
    total, _ = metrics.squared_error(np.uint8([[0]]), np.uint8([[255]]), np.ones((1, 1), bool))
    assert total == 255**2


def test_auc():
    cosines, labels = np.array([0.9, 0.6, 0.4, 0.1]), np.array([1, 0, 1, 0])
    assert metrics.auc(cosines, labels) == 0.75
    assert metrics.auc(np.ones(4), labels) == 0.5
    assert np.isnan(metrics.auc(cosines, np.ones(4)))


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        low, high = metrics.bootstrap(generator.normal(size=40), resamples=300, seed=trial)
        covered += low <= 0 <= high
    assert 175 <= covered <= 199  # 95 % of 200 = 190; the percentile interval of 40 values is a little short


def test_bootstrap_draws_whole_groups():
    values = np.repeat(np.random.default_rng(4).normal(size=10), 20)  # 200 copies of ten numbers
    groups = np.repeat(np.arange(10), 20)
    interval = partial(metrics.bootstrap, resamples=500, seed=0)
    naive = np.diff(interval(values))[0]
    honest = np.diff(interval(values, groups))[0]
    assert honest > 3 * naive
    assert interval(values, groups) == interval(values, groups)
    assert np.isnan(interval(values[:20], groups[:20])).all()
    assert np.isfinite(interval(values[:40], groups[:40])).all()
