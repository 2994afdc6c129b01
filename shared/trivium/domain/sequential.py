"""Comparisons of two arms that hold at every look, however often one looks and whenever one stops.

An interval of 95 % is right in 95 of 100 cases where one looks once. A guard looks every half minute, and
would see one of them miss on most days. The bounds here hold at all looks together.
"""

from dataclasses import dataclass
from math import inf, lgamma, log, sqrt

from trivium.domain.estimate import ClusterSums

ALPHA = 0.05
"""Chance that a feature that is no worse is interfered with in its whole rollout, by whichever test."""

ALPHA_SHARES = {"errors": 0.3, "slow": 0.3, "overrides": 0.3, "sample_ratio": 0.1}
"""What of a stage's alpha each test may spend."""

RUNNING_STAGES = 3
"""limited, expand-25, expand-50: each has the same share of ALPHA."""

MIN_EFFECTIVE = 30.0
"""Subjects of equal weight that a ratio must rest on in each arm before its bound counts."""

TIGHTEST_AT = 2.0
"""Where the bound is tightest, in multiples of the minimum exposure."""

RATIO_CONCENTRATION = 100.0
"""How near the planned share the alternatives of the sample-ratio test lie: within some 5 points at 50 %."""


def alpha_of(test: str, visit: int) -> float:
    """What a test may spend in one visit to one stage.

    A version that returns to a stage is tested anew, with half of what it had there the time before:
    1/2 + 1/4 + … stays below the stage's share, so that coming back never adds to ALPHA.

    Args:
        test: a key of ALPHA_SHARES.
        visit: 1 for the first time that this version is in this stage.
    """
    return ALPHA * ALPHA_SHARES[test] / RUNNING_STAGES / 2.0**visit


def effective_subjects(sums: ClusterSums) -> float:
    """How many subjects of equal weight say as much: n² / Σ n_i² (Kish, Survey Sampling, 1965)."""
    return sums.n * sums.n / sums.nn if sums.nn else 0.0


def smoothed(sums: ClusterSums) -> ClusterSums:
    """The sums with four more subjects of mean size, of whom two had nothing but events and two had none.

    Without them an arm without events has a variance of 0, and its bound no width; with them the standard
    error is at least 1.4 / subjects. They are Agresti and Coull's addition (The American Statistician 52,
    1998) for clusters, made to the variance alone: the estimate stays as it is, because arms of unequal size
    would be drawn to 1/2 unequally.
    """
    if not sums.n:
        return sums
    size = sums.n / sums.units
    square = size * size
    return ClusterSums(
        sums.units + 4,
        sums.n + 4 * size,
        sums.k + 2 * size,
        sums.nn + 4 * square,
        sums.kk + 2 * square,
        sums.nk + 2 * square,
    )


def information(t: float, tightest_at: float, alpha: float) -> float:
    """The mixture's time, t rho²: rho is chosen so that the bound is tightest at `tightest_at`.

    rho² = (-2 log alpha + log(1 - 2 log alpha)) / tightest_at (Waudby-Smith et al., see `boundary`); a
    one-sided bound is about the two-sided one of twice its alpha.
    """
    spent = -2 * log(min(2 * alpha, 0.5))
    return (spent + log(1 + spent)) * t / tightest_at


def boundary(t: float, tightest_at: float, alpha: float) -> float:
    """By how many standard errors the lower bound stands below the estimate after t subjects.

    sqrt(2 (t rho² + 1) / (t rho²) · log(1 + sqrt(t rho² + 1) / (2 alpha))): the one-sided asymptotic
    confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory
    and asymptotic confidence sequences, Annals of Statistics 52 (2024), whose margin
    sigma sqrt(2 (t rho² + 1) / (t² rho²) · …) is written here by the standard error sigma / sqrt(t).
    """
    u = information(t, tightest_at, alpha)
    return sqrt(2 * (u + 1) / u * log(1 + sqrt(u + 1) / (2 * alpha))) if u > 0 else inf


@dataclass(frozen=True, slots=True)
class Bound:
    """How much more often something happens in treatment than in control.

    `low` is below the true difference at every look, but for a chance of alpha; -inf where there is too
    little to say. A regression is proven where it is over `margin`.
    """

    treatment: float
    control: float
    low: float
    margin: float
    alpha: float

    @property
    def difference(self) -> float:
        """Treatment less control."""
        return self.treatment - self.control

    @property
    def proven(self) -> bool:
        """Whether treatment is worse than control by more than the margin."""
        return self.low > self.margin


def lower_bound(
    treatment: ClusterSums, control: ClusterSums, *, margin: float, alpha: float, tightest_at: float
) -> Bound:
    """The difference of two ratios over subjects, with the bound that holds at every look.

    Args:
        treatment: events and occasions by subject.
        control: the same, of subjects who were there at the same time.
        margin: the difference that is borne.
        alpha: chance that the bound is ever above the true difference.
        tightest_at: subjects of the smaller arm at which the bound is tightest.
    """
    low = -inf
    if min(effective_subjects(treatment), effective_subjects(control)) >= MIN_EFFECTIVE:
        error = sqrt(smoothed(treatment).standard_error ** 2 + smoothed(control).standard_error ** 2)
        t = min(treatment.units, control.units)
        low = treatment.ratio - control.ratio - boundary(t, tightest_at, alpha) * error
    return Bound(treatment.ratio, control.ratio, low, margin, alpha)


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """How the subjects are shared out, and how they should be; `evidence` is the log of a Bayes factor."""

    treated: int
    n: int
    planned: float
    evidence: float
    alpha: float

    @property
    def share(self) -> float:
        """Of the subjects in treatment; 0 of none."""
        return self.treated / self.n if self.n else 0.0

    @property
    def mismatch(self) -> bool:
        """Whether chance does not explain it: under the plan the factor ever reaches 1/alpha with alpha."""
        return self.evidence >= -log(self.alpha)


def sample_ratio(treated: int, control: int, planned: float, alpha: float) -> SampleRatio:
    """Tests the share of treatment at every look.

    The Bayes factor of a binomial with a beta prior around the planned share, against that share: a
    non-negative martingale under it (Lindon and Malek, Anytime-valid inference for multinomial count data,
    NeurIPS 2022, with two categories).
    """
    a, b = RATIO_CONCENTRATION * planned, RATIO_CONCENTRATION * (1 - planned)
    evidence = _log_beta(a + treated, b + control) - _log_beta(a, b)
    evidence -= treated * log(planned) + control * log(1 - planned)
    return SampleRatio(treated, treated + control, planned, evidence, alpha)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
