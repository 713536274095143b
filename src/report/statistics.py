"""Intervals, tests and fits of the report: SciPy's where it has them.

All intervals are two-sided 95 % intervals. Where the data allow none (one value, no spread), `low`
and `high` are None: a caller then cannot decide, which is meant.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
RESAMPLES = 10_000
BOOTSTRAP_SEED = 1
ROUNDING = 1e-10  # relative; what differs by less is equal
# Below so many values a bootstrap draws from too few distinct samples to cover what it states.
FEWEST_FOR_BOOTSTRAP = 8
# So many trials that all end alike exclude that half would not: 0.5^6 < 0.025.
FEWEST_ALIKE = 6


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. `p`: two-sided, of the value being 0; None where untested."""

    value: float
    low: float | None
    high: float | None
    n: int
    p: float | None = None

    def mapped(self, function) -> "Estimate":
        """Under an increasing function, such as exp2; p, which is about 0, is kept."""
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return Estimate(function(self.value), low, high, self.n, self.p)


@dataclass(frozen=True)
class Line:
    """A straight line's fit, on the scale that its maker names."""

    slope: Estimate
    intercept: float
    r2: float


@dataclass(frozen=True)
class Hyperbola:
    """(S / min_steps − 1)(E / min_samples − 1) = 1, critical_batch = min_samples / min_steps."""

    min_steps: float
    min_samples: float
    critical_batch: Estimate
    r2: float


def _clean(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return array[np.isfinite(array)]


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean with Student's t interval. No value: NaN. Values that are all equal have no interval:
    no spread was seen, which a few values show by chance."""
    x = _clean(values)
    if len(x) == 0:
        return Estimate(math.nan, None, None, 0)
    if len(x) == 1 or np.ptp(x) <= ROUNDING * np.abs(x).max():
        return Estimate(float(x[0]), None, None, len(x))
    test = stats.ttest_1samp(x, 0.0)
    interval = test.confidence_interval(LEVEL)
    return Estimate(float(x.mean()), float(interval.low), float(interval.high), len(x),
                    float(test.pvalue))


def bootstrap_interval(values: Sequence[float]) -> Estimate:
    """Mean with a BCa bootstrap interval of a fixed seed; with fewer than FEWEST_FOR_BOOTSTRAP
    values Student's t."""
    x = _clean(values)
    parametric = mean_interval(x)
    if len(x) < FEWEST_FOR_BOOTSTRAP or parametric.low is None:
        return parametric
    result = stats.bootstrap((x,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL,
                             method="BCa", rng=np.random.default_rng(BOOTSTRAP_SEED))
    interval = result.confidence_interval
    return Estimate(parametric.value, float(interval.low), float(interval.high), len(x),
                    parametric.p)


def holm(p_values: Sequence[float | None]) -> list[float]:
    """Holm's adjusted p-values of one family, in the given order. A missing one counts as 1: the
    family is as large as it was planned."""
    p = np.array([1.0 if value is None or math.isnan(value) else value for value in p_values])
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    adjusted = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    result = np.empty(len(p))
    result[order] = adjusted
    return [float(value) for value in result]


def kaplan_meier_median(times: Sequence[float], reached: Sequence[bool]) -> Estimate:
    """Median of times of which those not `reached` are censored: the time at which half are left,
    infinite if more than half never got there. Where exactly half are left from one time to the
    next, their arithmetic middle, as in R's survfit and in a median without censoring; where
    nothing is known of a next time, the first. The interval is Brookmeyer and Crowley's, from
    log–log bands by the same rule; an end that the data do not bound is infinite."""
    times, reached = np.asarray(times, dtype=float), np.asarray(reached, dtype=bool)
    if len(times) == 0:
        return Estimate(math.nan, None, None, 0)
    if not reached.any():
        return Estimate(math.inf, None, None, len(times))
    # Beyond all others is as good as infinite, which SciPy refuses.
    times = np.minimum(times, times[np.isfinite(times)].max() + 1)
    data = stats.CensoredData(uncensored=times[reached], right=times[~reached])
    survival = stats.ecdf(data).sf
    with warnings.catch_warnings():  # the bands have no value where nobody is left
        warnings.simplefilter("ignore", RuntimeWarning)
        bands = survival.confidence_interval(LEVEL, method="log-log")

    median, low, high = map(_half_left, (survival, bands.low, bands.high))
    if len(times) == 1 or low == math.inf:
        return Estimate(median, None, None, len(times))
    return Estimate(median, low, high, len(times))


def _half_left(curve) -> float:
    """Where a falling curve (quantiles, probabilities) is at one half."""
    at = np.flatnonzero(curve.probabilities <= 0.5 + ROUNDING)
    if not len(at):
        return math.inf
    first = curve.quantiles[at[0]]
    below = np.flatnonzero(curve.probabilities < 0.5 - ROUNDING)
    flat = curve.probabilities[at[0]] >= 0.5 - ROUNDING and len(below)
    return float((first + curve.quantiles[below[0]]) / 2 if flat else first)


def line(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """Least squares. None with fewer than two different x; no interval with fewer than three
    points, or where all y are equal."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    kept = np.isfinite(x) & np.isfinite(y)
    x, y = x[kept], y[kept]
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    fit = stats.linregress(x, y)
    r2 = 1.0 if np.ptp(y) == 0 else float(fit.rvalue**2)
    if len(x) < 3 or np.ptp(y) == 0:
        return Line(Estimate(float(fit.slope), None, None, len(x)), float(fit.intercept), r2)
    half = stats.t.ppf((1 + LEVEL) / 2, len(x) - 2) * fit.stderr
    slope = Estimate(float(fit.slope), float(fit.slope - half), float(fit.slope + half), len(x),
                     float(fit.pvalue))
    return Line(slope, float(fit.intercept), r2)


def power_law(x: Sequence[float], y: Sequence[float]) -> Line | None:
    """log₂ y against log₂ x; values that are not positive are left out."""
    with np.errstate(all="ignore"):
        return line(np.log2(np.asarray(x, dtype=float)), np.log2(np.asarray(y, dtype=float)))


def hyperbola(batches: Sequence[float], steps: Sequence[float]) -> Hyperbola | None:
    """Fits S = S_min + E_min / B, which is the hyperbola with E = S·B, to log S. The R² is that of
    log S. None with fewer than three batch sizes, or where one of the two limits is not seen."""
    batches, steps = np.asarray(batches, dtype=float), np.asarray(steps, dtype=float)
    kept = np.isfinite(steps) & (steps > 0)
    batches, steps = batches[kept], steps[kept]
    if len(np.unique(batches)) < 3:
        return None
    target = np.log(steps)

    def model(batch, log_steps, log_samples):
        return np.logaddexp(log_steps, log_samples - np.log(batch))

    start = (math.log(steps.min()), math.log((steps * batches).min()))
    try:
        with warnings.catch_warnings():  # an infinite covariance is looked for below
            warnings.simplefilter("ignore", optimize.OptimizeWarning)
            fit, covariance = optimize.curve_fit(model, batches, target, p0=start, maxfev=5000)
    except RuntimeError:
        return None
    if not np.isfinite(covariance).all() or np.ptp(target) == 0:
        return None
    residual = target - model(batches, *fit)
    r2 = 1 - float((residual**2).sum() / ((target - target.mean())**2).sum())
    log_critical = fit[1] - fit[0]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    n = len(steps)
    half = stats.t.ppf((1 + LEVEL) / 2, n - 2) * math.sqrt(variance)
    if half > 50:  # a limit beyond e^50 of the estimate is none
        return None
    critical = Estimate(math.exp(log_critical), math.exp(log_critical - half),
                        math.exp(log_critical + half), n)
    return Hyperbola(math.exp(fit[0]), math.exp(fit[1]), critical, r2)


def half_divergence(rates: Sequence[float], diverged: Sequence[bool]) -> Estimate:
    """The learning rate at which half of the trials diverge, by a logistic fit to log rate.

    Where at most one rate does both, the likelihood has no maximum: the value is then that rate, or
    the geometric middle of the last that never and the first that always diverges. The interval's
    lower end is the highest rate from which on FEWEST_ALIKE trials at least all stayed, up to where
    the first diverged; the upper end likewise; 0 and infinite where trials are too few. Never
    diverged: infinite. Always: 0."""
    x = np.log(np.asarray(rates, dtype=float))
    y = np.asarray(diverged, dtype=float)
    n = len(x)
    if n == 0:
        return Estimate(math.nan, None, None, 0)
    if not y.any():
        return Estimate(math.inf, _alike(x, -1), math.inf, n)
    if y.all():
        return Estimate(0.0, 0.0, _alike(x, 1), n)
    last_good, first_bad = x[y == 0].max(), x[y == 1].min()
    if last_good <= first_bad:
        return Estimate(math.exp((last_good + first_bad) / 2), _alike(x[x < first_bad], -1),
                        _alike(x[x > last_good], 1), n)

    def negative_log_likelihood(parameters):
        z = math.exp(parameters[1]) * (x - parameters[0])
        return float(np.logaddexp(0, z).sum() - (y * z).sum())

    start = ((last_good + first_bad) / 2, 0.0)
    fit = optimize.minimize(negative_log_likelihood, start, method="Nelder-Mead",
                            options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 20_000})
    centre, slope = fit.x[0], math.exp(fit.x[1])
    p = 1 / (1 + np.exp(-slope * (x - centre)))
    weight = p * (1 - p)
    # Fisher information of (centre, slope); the interval is Wald's on log rate.
    information = np.array([
        [slope**2 * weight.sum(), -slope * (weight * (x - centre)).sum()],
        [-slope * (weight * (x - centre)).sum(), (weight * (x - centre)**2).sum()]])
    try:
        deviation = math.sqrt(np.linalg.inv(information)[0, 0])
    except (np.linalg.LinAlgError, ValueError):
        return Estimate(math.exp(centre), None, None, n)
    if slope < 1e-3 or deviation > 50:  # divergence that does not grow with the rate
        return Estimate(math.exp(min(centre, 700.0)), None, None, n)
    half = stats.norm.ppf((1 + LEVEL) / 2) * deviation
    return Estimate(math.exp(centre), math.exp(centre - half), math.exp(centre + half), n)


def _alike(log_rates: np.ndarray, direction: int) -> float:
    """The rate at which, counted from the edge where outcomes change, enough trials have ended
    alike: downwards (−1) or upwards (1)."""
    if len(log_rates) < FEWEST_ALIKE:
        return 0.0 if direction < 0 else math.inf
    return math.exp(np.sort(log_rates * direction)[FEWEST_ALIKE - 1] * direction)
