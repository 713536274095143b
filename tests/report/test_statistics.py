"""Statistics against stored results of other programs, and what few values give.

The stored numbers come from statsmodels 0.15.0 (DescrStatsW, multipletests, OLS, Logit with the
delta method), lifelines 0.30.3 (KaplanMeierFitter, median_survival_times; data: Freireich's 6-MP
arm) and, for the bootstrap, SciPy 1.17.1 with a million resamples and another seed."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from report import statistics as st

DIFFERENCES = [0.31, -0.12, 0.25, 0.40, 0.05, 0.22, 0.18, 0.36, -0.02, 0.27]


def ends(estimate):
    return estimate.low, estimate.high


def test_mean_interval_is_students():
    found = st.mean_interval(DIFFERENCES)
    assert found.value == pytest.approx(0.19, abs=1e-12)
    assert ends(found) == pytest.approx((0.06883431598109417, 0.3111656840189058), abs=1e-12)
    assert found.p == pytest.approx(0.006242345313175604, rel=1e-9)
    assert found.n == 10


def test_bootstrap_interval_is_bca():
    found = st.bootstrap_interval(DIFFERENCES)
    assert ends(found) == pytest.approx((0.075, 0.277), abs=0.004)
    assert found == st.bootstrap_interval(DIFFERENCES), "the seed is fixed"


def test_a_bootstrap_of_few_values_is_students():
    assert st.bootstrap_interval(DIFFERENCES[:5]) == st.mean_interval(DIFFERENCES[:5])


def test_two_values():
    found = st.mean_interval([0.1, 0.3])
    half = 0.1 * 12.706204736432095  # the quantile of t with one degree of freedom
    assert ends(found) == pytest.approx((0.2 - half, 0.2 + half))


@pytest.mark.parametrize("values, value", [([], math.nan), ([0.3], 0.3), ([0.3, 0.3, 0.3], 0.3),
                                           ([0.1 + 0.2, 0.3, 0.3], 0.3),
                                           ([0.3, math.nan], 0.3)])
def test_no_spread_no_interval(values, value):
    for found in (st.mean_interval(values), st.bootstrap_interval(values)):
        assert found.value == pytest.approx(value, nan_ok=True)
        assert ends(found) == (None, None) and found.p is None


def test_holm():
    assert st.holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])


def test_holm_counts_what_is_missing():
    assert st.holm([0.02, None, math.nan]) == pytest.approx([0.06, 1, 1])
    assert st.holm([]) == []


SIX_MP = ([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35],
          [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0])


def test_kaplan_meier_median():
    found = st.kaplan_meier_median(*SIX_MP)
    assert (found.value, found.low, found.high, found.n) == (23, 13, math.inf, 21)


def test_a_dropped_censored_time_would_change_the_median():
    times, reached = map(np.array, SIX_MP)
    assert st.kaplan_meier_median(times[reached == 1], reached[reached == 1]).value == 10


@pytest.mark.parametrize("times, reached, expected", [
    ([], [], (math.nan, None, None)),
    ([10, 20], [0, 0], (math.inf, None, None)),
    ([10], [1], (10, None, None)),
    ([10, 20], [1, 1], (15, 10, math.inf)),
    ([10, 20, 20], [1, 0, 0], (math.inf, 10, math.inf)),
    ([10, 10, 10], [1, 1, 1], (10, None, None)),
    # Half are left from 20 on, as 3/4 · 2/3, up to 40; then, where nobody falls later, at 20.
    ([10, 20, 30, 40], [1, 1, 0, 1], (30, 10, math.inf)),
    ([10, 20, 30, 40], [1, 1, 0, 0], (20, 10, math.inf)),
    # By the log–log bands, (8/9)^7.1 = 0.43 is the first below and (1/9)^0.43 = 0.39 above; plain
    # ones give 3 to 7.
    (range(1, 10), [1] * 9, (5, 1, 8)),
])
def test_kaplan_meier_of_few(times, reached, expected):
    found = st.kaplan_meier_median(times, reached)
    assert (found.value, *ends(found)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("n", range(2, 41))
def test_kaplan_meier_without_censoring_is_the_median(n):
    """NumPy's own; the product of so many factors is not one half to the last bit."""
    times = np.random.default_rng(n).permutation(np.arange(1, n + 1) ** 2)
    assert st.kaplan_meier_median(times, np.ones(n)).value == pytest.approx(np.median(times))


BATCHES, STEPS = [16, 32, 64, 128, 256, 512], [5200, 2710, 1330, 702, 341, 186]


def test_power_law():
    found = st.power_law(BATCHES, STEPS)
    assert found.slope.value == pytest.approx(-0.9691119, abs=1e-7)
    assert ends(found.slope) == pytest.approx((-0.99602121, -0.94220259), abs=1e-7)
    assert found.intercept == pytest.approx(16.22151026)
    assert found.r2 == pytest.approx(0.9996000870931755)
    assert found.slope.p == pytest.approx(5.99818715e-08, rel=1e-6)


def test_lines_of_few_points():
    assert st.line([1, 1, 1], [1, 2, 3]) is None
    assert st.line([1], [1]) is None
    flat = st.line([1, 2, 3], [5, 5, 5])
    assert flat.slope.value == 0 and ends(flat.slope) == (None, None)
    two = st.line([1, 2, 3], [1, 3, math.nan])
    assert two.slope.value == 2 and ends(two.slope) == (None, None)


def test_hyperbola_finds_its_own_parameters():
    batches = np.array([16, 64, 256, 1024, 4096])
    steps = (120 + 90000 / batches) * np.array([1.02, 0.97, 1.03, 0.99, 1.0])
    found = st.hyperbola(batches, steps)
    assert found.min_steps == pytest.approx(120, rel=0.02)
    assert found.min_samples == pytest.approx(90000, rel=0.02)
    assert found.critical_batch.low < 750 < found.critical_batch.high
    assert found.r2 > 0.999
    exact = st.hyperbola(batches, 120 + 90000 / batches)
    ratio = exact.critical_batch.value
    assert ratio == pytest.approx(750)
    s, e = 120 + 90000 / 64, 64 * (120 + 90000 / 64)
    assert (s / exact.min_steps - 1) * (e / exact.min_samples - 1) == pytest.approx(1)


def test_the_interval_of_the_critical_batch_is_that_of_a_fit_for_it():
    """The same curve with log critical batch as a parameter of its own."""
    batches = np.array([16.0, 64, 256, 1024, 4096])
    steps = (120 + 90000 / batches) * np.array([1.02, 0.97, 1.03, 0.99, 1.0])
    fit, covariance = optimize.curve_fit(
        lambda b, log_steps, log_critical: log_steps + np.log1p(np.exp(log_critical) / b),
        batches, np.log(steps), p0=(5, 6))
    half = stats.t.ppf(0.975, 3) * math.sqrt(covariance[1, 1])
    found = st.hyperbola(batches, steps).critical_batch
    assert (found.low, found.high) == pytest.approx(
        (math.exp(fit[1] - half), math.exp(fit[1] + half)), rel=1e-3)


def test_hyperbola_needs_both_limits():
    assert st.hyperbola([16, 64], [100, 50]) is None
    assert st.hyperbola([16, 64, 256], [100, 100, 100]) is None
    batches = np.array([16, 64, 256, 1024])
    assert st.hyperbola(batches, 90000 / batches) is None
    poor = st.hyperbola(batches, [100, 1000, 90, 900])
    assert poor is None or poor.r2 < 0.5


RATES = [0.1] * 3 + [0.3] * 3 + [1] * 3 + [3] * 3 + [10] * 3
DIVERGED = [0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1]


def test_half_divergence_is_the_logistic_fit():
    found = st.half_divergence(RATES, DIVERGED)
    assert found.value == pytest.approx(1.19673991, rel=1e-4)
    assert ends(found) == pytest.approx((0.37664181, 3.80251571), rel=1e-3)


def each(trials, *rates):
    return [rate for rate in rates for _ in range(trials)]


@pytest.mark.parametrize("rates, diverged, expected", [
    (each(6, 1, 2, 4, 8), each(6, 0, 0, 1, 1), (math.sqrt(8), 2, 4)),
    # Three trials that stay do not exclude that half diverge: 0.5^3 is 12.5 %.
    (each(3, 1, 2, 4, 8), each(3, 0, 0, 1, 1), (math.sqrt(8), 1, 8)),
    (each(2, 1, 2, 4, 8), each(2, 0, 0, 1, 1), (math.sqrt(8), 0, math.inf)),
    (each(6, 1, 2, 4), [0] * 6 + [0, 0, 1, 1, 1, 1] + [1] * 6, (2, 1, 4)),
    (each(6, 1, 2), [0] * 11 + [1], (2, 1, math.inf)),
    (each(6, 1, 2), [0] * 12, (math.inf, 2, math.inf)),
    (each(3, 1, 2, 4), [0] * 9, (math.inf, 2, math.inf)),
    (each(6, 1, 2), [1] * 12, (0, 0, 1)),
])
def test_half_divergence_without_a_maximum(rates, diverged, expected):
    found = st.half_divergence(rates, diverged)
    assert (found.value, *ends(found)) == pytest.approx(expected)


def test_divergence_that_falls_with_the_rate_has_no_interval():
    assert ends(st.half_divergence([1, 2, 4, 8], [1, 1, 0, 0])) == (None, None)
