"""The statistics, on numbers worked out by hand and on seeded draws whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest
from scipy import stats as reference

from bench import stats
from benchmarks import verdicts

FLAT = stats.Spread(0.2, 16, False)


def draw(random: np.random.Generator, means: list[float], n: int = 3, std: float = 1.0) -> list[list[float]]:
    return [[float(x) for x in mean + std * random.standard_normal(n)] for mean in means]


def neighbours(groups: list[list[float]]) -> list[tuple[list[float], list[float]]]:
    return [(after, before) for before, after in zip(groups, groups[1:], strict=False)]


def everything(groups: list[list[float]]) -> list[tuple[list[float], list[float]]]:
    return neighbours(groups) + [(group, groups[0]) for group in groups[2:]]


def test_the_pooled_deviation_weighs_groups_by_their_degrees_of_freedom() -> None:
    spread = stats.pool([[1.0, 3.0], [10.0, 10.0, 13.0], [5.0]])
    assert spread.freedom == 3
    assert spread.std == pytest.approx(math.sqrt((2 + 6) / 3))


def test_one_contrast_is_the_two_sample_t_test() -> None:
    a, b = [46.1, 45.0, 45.9], [44.2, 44.0, 44.9]
    (contrast,) = stats.differences([(a, b)], stats.pool([a, b]))
    expected = reference.ttest_ind(a, b).confidence_interval(0.95)
    assert (contrast.low, contrast.high) == pytest.approx((expected.low, expected.high))


def test_bartlett_agrees_with_scipy_and_warns_of_a_tenfold_deviation() -> None:
    random = np.random.default_rng(5)
    groups = draw(random, [0.0] * 4, n=6)
    known = [(5, float(np.var(group, ddof=1))) for group in groups]
    p = stats._bartlett(known, stats.pool(groups).std ** 2, 20)
    assert p == pytest.approx(reference.bartlett(*groups).pvalue)
    assert not stats.pool(groups).uneven
    assert stats.pool([*groups, *draw(random, [0.0], n=6, std=10.0)]).uneven


@pytest.mark.parametrize(
    ("delta", "verdict"),
    [(1.0, "better"), (-1.0, "worse"), (0.05, "same"), (-0.05, "same"), (0.3, "cannot tell")],
)
def test_the_verdict_follows_the_interval(delta: float, verdict: str) -> None:
    base = [45.0, 45.0, 45.0]
    (contrast,) = stats.differences([([x + delta for x in base], base)], FLAT)
    assert contrast.verdict == verdict
    assert contrast.delta == pytest.approx(delta)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ([1.0, 2.0], [1.0, 2.0, 3.0], "n = 2"),
        ([1.0, 2.0, 3.0], [9.0], "n = 1"),
        ([], [1.0, 2.0, 3.0], "no run that counts"),
    ],
)
def test_fewer_than_three_seeds_give_no_verdict(first: list[float], second: list[float], reason: str) -> None:
    (contrast,) = stats.differences([(first, second)], FLAT)
    assert (contrast.verdict, contrast.low, contrast.reason) == (None, None, reason)


def test_seeds_that_all_agree_give_no_verdict() -> None:
    groups = [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    (contrast,) = stats.differences(neighbours(groups), stats.pool(groups))
    assert contrast.verdict is None
    assert contrast.reason == "no spread between seeds"


def test_equal_seeds_have_no_deviation_where_their_mean_is_rounded() -> None:
    value = 48.70712571003442
    assert fmean([value] * 3) != value
    first, second = [value] * 3, [value - 1e-9] * 3
    (contrast,) = stats.differences([(first, second)], stats.pool([first, second]))
    assert (contrast.verdict, contrast.reason) == (None, "no spread between seeds")


def test_an_unjudged_contrast_does_not_widen_the_others() -> None:
    three, one = [2.0, 2.1, 2.2], [1.0]
    alone = stats.differences([(three, [1.0, 1.1, 1.2])], FLAT)
    beside = stats.differences([(three, [1.0, 1.1, 1.2]), (three, one)], FLAT)
    assert beside[0] == alone[0]


def test_the_levels_are_those_of_holm() -> None:
    assert stats._holm({0: 0.001, 1: 0.04, 2: 0.02}) == {0: 0.05 / 3, 2: 0.05 / 2, 1: 0.05}
    assert stats._holm({0: 0.03, 1: 0.04, 2: 0.02}) == {2: 0.05 / 3, 0: 0.05 / 3, 1: 0.05 / 3}


@pytest.mark.parametrize("seed", range(20))
def test_an_interval_leaves_zero_out_exactly_where_holm_rejects(seed: int) -> None:
    random = np.random.default_rng(seed)
    groups = draw(random, [float(x) for x in random.uniform(0, 4, 8)])
    spread = stats.pool(groups)
    pairs = everything(groups)
    errors = [spread.std * math.sqrt(1 / len(a) + 1 / len(b)) for a, b in pairs]
    gaps = [np.mean(a) - np.mean(b) for a, b in pairs]
    ps = [
        2 * reference.t.sf(abs(gap) / error, spread.freedom) for gap, error in zip(gaps, errors, strict=True)
    ]
    adjusted, worst = [0.0] * len(ps), 0.0
    for rank, i in enumerate(np.argsort(ps)):
        worst = max(worst, (len(ps) - rank) * ps[i])
        adjusted[i] = worst
    for p, contrast in zip(adjusted, stats.differences(pairs, spread), strict=True):
        assert (p < 0.05) == (contrast.verdict in ("better", "worse"))


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_of_a_single_contrast_covers_the_truth_95_times_in_100(n: int) -> None:
    random = np.random.default_rng(n)
    assert 0.93 <= verdicts.coverage(random, 2000, n, verdicts.normal) <= 0.97
    print(f"skewed draws, n = {n}: {verdicts.coverage(random, 1000, n, verdicts.skewed):.3f}")


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_mean_at_the_target_is_rarely_called_reached(n: int) -> None:
    random = np.random.default_rng(n)
    assert 0.93 <= verdicts.one_sided_coverage(random, 2000, n, verdicts.normal) <= 0.97


def test_a_ladder_of_equal_rungs_rarely_gets_a_false_verdict() -> None:
    random = np.random.default_rng(2)
    assert verdicts.false_verdicts(random, 800, [1.0] * 7) <= 0.05
    print(f"deviations 1 and 2 in turns: {verdicts.false_verdicts(random, 800, [1, 2] * 3 + [1]):.3f}")


def test_times_at_the_edge_are_rarely_called_slower_whatever_their_n() -> None:
    random = np.random.default_rng(11)
    counts = (3, 4, 6, 9, 13, 20, 30, 45, 70)
    assert verdicts.false_paces(random, 1500, counts, 1 / (1 - stats.TOLERANCE)) <= 0.05


@pytest.mark.parametrize("freedom", [2, 4, 16, 100])
@pytest.mark.parametrize("contrasts", [1, 16])
def test_the_smallest_effect_has_the_power_it_claims(freedom: int, contrasts: int) -> None:
    """Known deviation: scipy's noncentral t says how often the first of Holm's steps finds the effect."""
    found = stats.differences([([0.0] * 3, [0.0] * 3)] * contrasts, stats.Spread(1.0, freedom, False))
    assert found[0].smallest is not None
    critical = reference.t.isf(0.025 / contrasts, freedom)
    assert reference.nct.sf(critical, freedom, found[0].smallest / math.sqrt(2 / 3)) >= 0.8 - 1e-9


def test_the_smallest_effect_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(3)
    assert 0.77 <= verdicts.power(random, 800) <= 0.84
    low, middle, high = verdicts.power_of_printed(random, 300)
    print(f"deviation estimated: {low:.2f} to {high:.2f}, median {middle:.2f}")
    assert low < 0.8 < high


@pytest.mark.parametrize("n", range(stats.FEWEST, 11))
def test_a_tenfold_difference_is_found_at_every_n_that_gives_a_verdict(n: int) -> None:
    random = np.random.default_rng(n)
    assert verdicts.tenfold(random, 50, n) == 1.0
    for _ in range(50):
        groups = draw(random, [40.0, 4.0], n, std=0.7)
        assert stats.differences(neighbours(groups), stats.pool(groups))[0].verdict == "worse"
        assert stats.attainments(groups, 20.0, stats.pool(groups))[0].verdict == "reached"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("judge", [stats.differences, stats.shortfalls, stats.ratios, stats.speedups])
def test_a_number_that_is_none_gets_no_verdict_and_leaves_the_others_theirs(
    bad: float, judge: Callable[[list[stats.Pair], stats.Spread], list[stats.Contrast]]
) -> None:
    good = [([4.0, 4.1, 4.2], [1.0, 1.1, 1.2]), ([1.0, 1.1, 1.2], [1.0, 1.1, 1.2])]
    alone = judge(good, FLAT)
    broken, *others = judge([([bad, 1.0, 2.0], [1.0, 2.0, 3.0]), *good], FLAT)
    assert broken.verdict is None
    assert broken.reason
    assert others == alone


@pytest.mark.parametrize("times", [[0.0, 1.0, 2.0], [-1.0, 1.0, 2.0]])
def test_a_time_that_is_none_gets_no_verdict(times: list[float]) -> None:
    (contrast,) = stats.ratios([(times, [1.0, 1.1, 1.2])], FLAT)
    assert contrast.verdict is None
    assert contrast.reason


@pytest.mark.parametrize("spread", [stats.Spread(math.nan, 0, False), stats.Spread(math.inf, 4, False)])
def test_a_spread_that_is_none_gives_no_verdict(spread: stats.Spread) -> None:
    group = [1.0, 1.1, 1.2]
    for judge in (stats.differences, stats.shortfalls, stats.ratios, stats.speedups):
        assert judge([(group, group)], spread)[0].verdict is None
    assert stats.attainments([group], 0.0, spread)[0].verdict is None


def test_a_mean_against_a_target_is_the_one_sided_t_test() -> None:
    group = [25.1, 25.9, 26.4]
    (found,) = stats.attainments([group], 25.0, stats.pool([group]))
    expected = reference.ttest_1samp(group, 25.0, alternative="greater")
    assert found.chance == pytest.approx(expected.pvalue)
    assert found.low == pytest.approx(expected.confidence_interval(0.95).low - 25.0)
    assert (found.verdict == "reached") == (expected.pvalue < 0.05)


def test_several_means_against_a_target_are_one_family() -> None:
    found = stats.attainments([[26.0] * 3, [25.2] * 3, [24.0] * 3, [30.0] * 2, []], 25.0, FLAT)
    told = [contrast.verdict for contrast in found]
    assert told == ["reached", "not shown", "not shown", None, None]
    assert [contrast.reason for contrast in found[3:]] == ["n = 2", "no run that counts"]
    p = float(reference.t.sf(0.2 / (0.2 / math.sqrt(3)), 16))
    assert found[1].chance == pytest.approx(2 * p)


def test_pairs_of_which_only_a_loss_matters_are_judged_beside_others() -> None:
    base = [45.0, 45.0, 45.0]
    higher, lower = [45.3] * 3, [43.0] * 3
    found = stats.differences([(higher, base), (higher, base), (lower, base)], FLAT, kept=[1, 2])
    assert [contrast.verdict for contrast in found] == ["cannot tell", "not worse", "worse"]


def test_the_gain_of_the_blogs_new_weights_is_found_nearly_always() -> None:
    random = np.random.default_rng(4)
    means = [44.17, 45.01, 45.01, 45.19, 45.2, 45.2, 45.36, 45.56]
    found, times = 0, 400
    for _ in range(times):
        groups = draw(random, means, std=0.2)
        found += stats.differences(everything(groups), stats.pool(groups))[0].verdict == "better"
    assert found / times > 0.9


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.5, "faster"), (2.0, "slower"), (1.0, "same"), (0.985, "cannot tell")]
)
def test_times_are_compared_by_their_ratio(factor: float, verdict: str) -> None:
    base = [99.9, 100.0, 100.1]
    (contrast,) = stats.ratios([([factor * x for x in base], base)], stats.Spread(0.005, 16, False))
    assert contrast.delta == pytest.approx(factor)
    assert contrast.verdict == verdict


def test_a_ratio_and_its_reciprocal_mirror_each_other() -> None:
    a, b = [10.0, 11.0, 10.5], [20.0, 21.0, 19.0]
    spread = stats.pool([[math.log(x) for x in group] for group in (a, b)])
    (one,), (other,) = stats.ratios([(a, b)], spread), stats.ratios([(b, a)], spread)
    assert one.low is not None
    assert other.high is not None
    assert one.delta * other.delta == pytest.approx(1)
    assert one.low * other.high == pytest.approx(1)


def test_the_target_is_reached_at_the_first_evaluation_at_or_above_it() -> None:
    curve = [(1.0, 20.0), (2.0, 30.0), (3.0, 25.0), (4.0, 31.0)]
    assert stats.reach(curve, 30.0) == 2.0
    assert stats.reach(curve, 31.5) is None


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([3.0, 1.0, 2.0], 2.0),
        ([3.0, None, 2.0], 3.0),
        ([None, None, 2.0], math.inf),
        ([1.0, 2.0, None, None], math.inf),
        ([1.0, 2.0, 4.0, None], 3.0),
    ],
)
def test_a_miss_counts_as_infinite_in_the_median(times: list[float | None], expected: float) -> None:
    assert stats.median(times) == expected


# Speeds against a baseline: a verdict counts from the tolerance on, a loss of mIoU from the margin on


def speeds(
    random: np.random.Generator, means: list[float], n: int = 3, noise: float = 0.01
) -> list[list[float]]:
    return [[float(x) for x in mean * np.exp(noise * random.standard_normal(n))] for mean in means]


def against(new: list[list[float]], old: list[list[float]]) -> list[stats.Contrast]:
    spread = stats.pool([[math.log(x) for x in group] for group in (*old, *new)])
    return stats.speedups(list(zip(new, old, strict=True)), spread)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(0.5, "slower"), (2.0, "faster"), (1.0, "same"), (1.015, "cannot tell"), (0.985, "cannot tell")],
)
def test_speeds_are_compared_by_their_ratio(factor: float, verdict: str) -> None:
    base = [99.9, 100.0, 100.1]
    (contrast,) = stats.speedups([([factor * x for x in base], base)], stats.Spread(0.005, 16, False))
    assert contrast.delta == pytest.approx(factor)
    assert contrast.verdict == verdict


def test_a_speedup_turned_round_has_the_mirrored_verdict() -> None:
    mirror = {"slower": "faster", "faster": "slower", "same": "same", "cannot tell": "cannot tell"}
    random = np.random.default_rng(8)
    old, new = (speeds(random, [float(x) for x in random.uniform(95, 105, 200)]) for _ in range(2))
    there, back = against(new, old), against(old, new)
    assert {contrast.verdict for contrast in there} >= {"slower", "faster", "cannot tell"}
    assert [mirror[str(a.verdict)] for a in there] == [b.verdict for b in back]


def test_groups_compared_with_themselves_are_never_slower() -> None:
    random = np.random.default_rng(9)
    for noise in (1e-9, 0.001, 0.01, 0.3):
        groups = speeds(random, [100.0] * 9, noise=noise)
        assert {contrast.verdict for contrast in against(groups, groups)} <= {"same", "cannot tell"}


@pytest.mark.parametrize("change", [1.0, 0.98])
def test_equal_rungs_are_rarely_called_slower_even_at_the_edge_of_the_tolerance(change: float) -> None:
    random = np.random.default_rng(10)
    wrong, times = 0, 2000
    for _ in range(times):
        old, new = speeds(random, [100.0] * 9), speeds(random, [100.0 * change] * 9)
        wrong += any(contrast.verdict == "slower" for contrast in against(new, old))
    assert wrong / times <= 0.05


def test_rungs_at_the_edge_are_rarely_called_slower_whatever_their_n() -> None:
    """Holm's steps lower the bar after each slower rung: only what lies beyond the tolerance may do so."""
    random = np.random.default_rng(11)
    counts = [3, 4, 6, 9, 13, 20, 30, 45, 70]
    wrong, times = 0, 1500
    for _ in range(times):
        old, new = ([speeds(random, [mean], n, noise=0.0005)[0] for n in counts] for mean in (100.0, 98.0))
        wrong += any(contrast.verdict == "slower" for contrast in against(new, old))
    assert wrong / times <= 0.05


@pytest.mark.parametrize("rungs", [1, 9])
def test_a_slowdown_of_10_percent_is_found_at_n_3_and_1_percent_noise(rungs: int) -> None:
    random = np.random.default_rng(12)
    found, times = 0, 300
    for _ in range(times):
        old, new = speeds(random, [100.0] * rungs), speeds(random, [90.0] + [100.0] * (rungs - 1))
        found += against(new, old)[0].verdict == "slower"
    assert found / times >= 0.99


def test_the_smallest_slowdown_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(13)
    (contrast,) = stats.speedups([([100.0] * 3, [100.0] * 3)], stats.Spread(0.01, 16, False))
    assert contrast.smallest is not None
    found, times = 0, 800
    for _ in range(times):
        groups = speeds(random, [100.0 * contrast.smallest] + [100.0] * 7)
        spread = stats.pool([[math.log(x) for x in group] for group in groups])
        found += stats.speedups([(groups[0], groups[1])], spread)[0].verdict == "slower"
    assert 0.77 <= found / times <= 0.84


@pytest.mark.parametrize(
    ("first", "second"), [([], [1.0] * 3), ([1.0, 2.0], [1.0] * 3), ([math.nan] * 3, [1.0] * 3)]
)
def test_what_cannot_be_judged_is_neither_slower_nor_worse(first: list[float], second: list[float]) -> None:
    for judged in (stats.speedups, stats.shortfalls):
        for std in (0.01, 0.0, math.nan):
            (contrast,) = judged([(first, second)], stats.Spread(std, 16, False))
            assert contrast.verdict in (None, "cannot tell")


@pytest.mark.parametrize(
    ("delta", "verdict"),
    [(-2.0, "worse"), (0.0, "not worse"), (3.0, "not worse"), (-0.6, "cannot tell"), (-0.4, "cannot tell")],
)
def test_only_a_loss_beyond_the_margin_is_worse(delta: float, verdict: str) -> None:
    base = [45.0, 45.0, 45.0]
    (contrast,) = stats.shortfalls([([x + delta for x in base], base)], FLAT)
    assert contrast.verdict == verdict
    assert contrast.smallest == pytest.approx(-0.5 - 3.0 * 0.2 * math.sqrt(2 / 3), abs=0.05)


def test_a_loss_at_the_margin_is_rarely_called_worse_or_not_worse() -> None:
    random = np.random.default_rng(14)
    wrong, times = 0, 1000
    for _ in range(times):
        old, new = draw(random, [40.0] * 9, std=0.05), draw(random, [39.5] * 9, std=0.05)
        found = stats.shortfalls(list(zip(new, old, strict=True)), stats.pool([*old, *new]))
        wrong += any(contrast.verdict != "cannot tell" for contrast in found)
    assert wrong / times <= 0.065  # 5 % and three standard errors of a thousand draws


# Pairs


def test_pairs_are_judged_by_a_t_interval_of_their_log_ratios() -> None:
    ratios = [0.95, 0.97, 0.96, 0.94]
    found = stats.paired(ratios, tolerance=0.02, alpha=0.01)
    logs = [math.log(ratio) for ratio in ratios]
    low, high = reference.t.interval(0.98, 3, np.mean(logs), reference.sem(logs))
    assert found.delta == pytest.approx(math.exp(np.mean(logs)))
    assert (found.low, found.high) == pytest.approx((math.exp(low), math.exp(high)))


@pytest.mark.parametrize(
    ("center", "spread", "verdict"),
    [
        (0.90, 0.002, "slower"),
        (1.11, 0.002, "faster"),
        (1.0, 0.002, "same"),
        (0.97, 0.02, "cannot tell"),
        (1.0, 0.05, "cannot tell"),
    ],
)
def test_a_pair_of_speeds_is_slower_faster_the_same_or_cannot_be_told(
    center: float, spread: float, verdict: str
) -> None:
    ratios = [center * (1 + step * spread) for step in (-1, -0.5, 0, 0.5, 1)]
    assert stats.paired(ratios).verdict == verdict
    assert stats.paired([1 / ratio for ratio in ratios]).verdict == {
        "slower": "faster", "faster": "slower",
    }.get(verdict, verdict)  # fmt: skip


@pytest.mark.parametrize(("count", "alpha"), [(3, 0.01), (8, 0.01), (16, 0.01), (16, 0.025)])
def test_the_interval_of_pairs_covers_and_at_the_edge_false_alarms_are_as_many_as_asked(
    count: int, alpha: float
) -> None:
    random = np.random.default_rng(count)
    draws = 0.98 * np.exp(0.01 * random.standard_normal((8000, count)))
    found = [stats.paired(row.tolist(), 0.02, alpha) for row in draws]
    covered = [each.low < 0.98 < each.high for each in found if each.low and each.high]
    assert 1 - 2 * alpha == pytest.approx(sum(covered) / len(found), abs=0.005)
    assert alpha == pytest.approx(sum(each.verdict == "slower" for each in found) / len(found), abs=0.004)


def test_the_smallest_slowdown_of_pairs_is_found_four_times_in_five() -> None:
    random = np.random.default_rng(17)
    noise = np.exp(0.01 * random.standard_normal((3000, 12)))
    exact = [math.exp(x) for x in 0.01 * reference.zscore(random.standard_normal(12), ddof=1)]
    smallest = stats.paired(exact, 0.02, 0.01).smallest  # at a deviation of 1 %, as is the truth
    assert smallest is not None
    found = [stats.paired((smallest * row).tolist(), 0.02, 0.01).verdict for row in noise]
    assert found.count("slower") / len(found) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("ratios", "reason"),
    [([], "no run that counts"), ([0.5, 0.6], "n = 2"), ([0.5] * 5, "no spread between pairs")],
)
def test_pairs_that_show_no_spread_have_no_verdict(ratios: list[float], reason: str) -> None:
    found = stats.paired(ratios)
    assert (found.verdict, found.low, found.reason) == (None, None, reason)
