"""Metrics against scikit-learn's, thresholds against a search of them all, the bootstrap against its definition."""

import numpy as np
import pytest
from scipy.stats import norm, pearsonr, spearmanr
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from optimizer import evaluate
from optimizer.evaluate import Drop
from optimizer.metric import Array, Measure, Metric, parse

RNG = np.random.default_rng(0)
TARGETS = (RNG.random((400, 5)) < [0.5, 0.3, 0.2, 0.1, 0.05]).astype(np.uint8)
SCORES = np.clip(0.4 * TARGETS + RNG.random((400, 5)) * 0.6, 0, 1).astype(np.float32)
CLASSES = RNG.integers(0, 5, 400)


def test_multi_label_quality_is_scikit_learns() -> None:
    thresholds = (0.5, 0.4, 0.6, 0.3, 0.7)
    predicted = np.array(thresholds) <= SCORES
    found = evaluate.quality(SCORES, TARGETS, thresholds)
    assert found["macro_f1"] == pytest.approx(f1_score(TARGETS, predicted, average="macro"))
    assert found["micro_f1"] == pytest.approx(f1_score(TARGETS, predicted, average="micro"))
    assert found["accuracy"] == pytest.approx(accuracy_score(TARGETS, predicted))
    assert found["top1"] == pytest.approx(np.mean([TARGETS[i, SCORES[i].argmax()] for i in range(400)]))


def test_single_label_quality_is_scikit_learns() -> None:
    found = evaluate.quality(SCORES, CLASSES, None)
    predicted = SCORES.argmax(1)
    assert found["macro_f1"] == pytest.approx(f1_score(CLASSES, predicted, average="macro"))
    assert found["accuracy"] == found["top1"] == found["micro_f1"] == pytest.approx(accuracy_score(CLASSES, predicted))


def test_tuned_thresholds_are_the_best_there_are() -> None:
    tuned = evaluate.tune_thresholds(SCORES, TARGETS)
    for label, threshold in enumerate(tuned):
        every = [f1_score(TARGETS[:, label], SCORES[:, label] >= cut) for cut in np.unique(SCORES[:, label])]
        assert f1_score(TARGETS[:, label], SCORES[:, label] >= threshold) == pytest.approx(max(every))


def test_equal_scores_are_never_cut_apart() -> None:
    scores = np.full((10, 1), 0.7, dtype=np.float32)
    targets = np.array([[1]] * 4 + [[0]] * 6, dtype=np.uint8)
    (threshold,) = evaluate.tune_thresholds(scores, targets)
    assert threshold < 0.7
    assert (scores >= threshold).all()


def test_a_label_that_never_occurs_is_never_predicted() -> None:
    assert evaluate.tune_thresholds(SCORES[:, :1], np.zeros((400, 1), dtype=np.uint8)) == (1.0,)


LABELS = ("a", "b", "c", "d", "e")


def macro_f1(decided: np.ndarray) -> Measure:
    return Metric().on(SCORES, decided, TARGETS > 0, LABELS)


def test_drop_is_the_difference_of_macro_f1_and_its_interval_holds_it() -> None:
    actual = TARGETS > 0
    before, after = actual ^ (RNG.random(actual.shape) < 0.1), actual ^ (RNG.random(actual.shape) < 0.15)
    drop, low, high = evaluate.bootstrap_drop(macro_f1(before), macro_f1(after), 400, resamples=2000)
    expected = 100 * (f1_score(actual, before, average="macro") - f1_score(actual, after, average="macro"))
    assert drop == pytest.approx(expected, abs=1e-3)
    assert low < drop < high
    # The definition, resample by resample, with another generator: the same interval but for chance.
    rng, slow = np.random.default_rng(1), []
    for _ in range(500):
        rows = rng.integers(0, 400, 400)
        slow.append(
            f1_score(actual[rows], before[rows], average="macro") - f1_score(actual[rows], after[rows], average="macro")
        )
    assert np.allclose([low, high], 100 * np.percentile(slow, [2.5, 97.5]), atol=0.12 * (high - low))


def test_the_bootstrap_is_paired_and_repeatable() -> None:
    actual = TARGETS > 0
    noisy = actual ^ (RNG.random(actual.shape) < 0.2)
    assert evaluate.bootstrap_drop(macro_f1(noisy), macro_f1(noisy), 400, resamples=300) == (0.0, 0.0, 0.0)
    other = actual ^ (RNG.random(actual.shape) < 0.2)
    again = [evaluate.bootstrap_drop(macro_f1(noisy), macro_f1(other), 400, resamples=300) for _ in range(2)]
    assert again[0] == again[1]


def test_intervals_of_many_tries_are_as_much_wider_as_the_normal_distribution_says() -> None:
    """Bonferroni: of 20 tries each interval is one of 99.75%, and has enough resamples beyond its ends."""
    actual = TARGETS > 0
    before, after = (macro_f1(actual ^ (RNG.random(actual.shape) < wrong)) for wrong in (0.15, 0.2))
    one, many = (evaluate.bootstrap_drop(before, after, 400, resamples=2000, tries=tries) for tries in (1, 20))
    assert one.points == many.points
    expected = norm.ppf(1 - 0.025 / 20) / norm.ppf(1 - 0.025)
    assert (many.high - many.low) / (one.high - one.low) == pytest.approx(expected, rel=0.1)
    assert many.low < one.low < one.high < many.high
    assert evaluate.disagreement(0, 60, 20).high == pytest.approx(100 * (1 - (0.05 / 40) ** (1 / 60)))


def test_the_drop_of_an_order_is_that_of_its_metric() -> None:
    worse = np.clip(SCORES + RNG.normal(0, 0.2, SCORES.shape), 0, 1).astype(np.float32)
    before, after = (parse("average-precision").on(each, TARGETS > 0, TARGETS > 0, LABELS) for each in (SCORES, worse))
    drop = evaluate.bootstrap_drop(before, after, 400, resamples=500)
    points = [100 * average_precision_score(TARGETS, each, average="macro") for each in (SCORES, worse)]
    assert drop.points == pytest.approx(points[0] - points[1], abs=1e-3)
    assert drop.low < drop.points < drop.high


def test_both_halves_have_half_of_every_label() -> None:
    first = evaluate.halves(TARGETS > 0)
    assert first.sum() == 200
    counts, whole = (part.sum(axis=0, dtype=int) for part in (TARGETS[first], TARGETS))
    assert (np.abs(2 * counts - whole) <= 10).all()
    rarest = whole.argmin()
    assert abs(2 * counts[rarest] - whole[rarest]) <= 1
    assert (evaluate.halves(TARGETS > 0) == first).all(), "the same halves in each run"


def test_no_row_is_judged_by_a_threshold_that_was_tuned_on_it() -> None:
    """Pure noise: tuned on the rows themselves, thresholds find an F1 that is not there."""
    targets = (RNG.random((300, 1)) < 0.05).astype(np.uint8)
    scores = RNG.random((300, 1)).astype(np.float32)
    first = evaluate.halves(targets > 0)
    decided = evaluate.cross_fitted(scores, targets)
    for judged in (first, ~first):
        (tuned,) = evaluate.tune_thresholds(scores[~judged], targets[~judged])
        assert (decided[judged] == (scores[judged] >= tuned)).all()
    flattered = evaluate.predict(scores, evaluate.tune_thresholds(scores, targets))
    assert f1_score(targets, decided) < f1_score(targets, flattered)


def test_other_answers_are_decided_by_the_thresholds_of_the_scores() -> None:
    own = evaluate.cross_fitted(SCORES, TARGETS)
    assert (evaluate.cross_fitted(SCORES, TARGETS, SCORES.copy()) == own).all()
    assert not evaluate.cross_fitted(SCORES, TARGETS, np.zeros_like(SCORES)).any()


def test_single_label_decisions_need_no_thresholds() -> None:
    assert (evaluate.cross_fitted(SCORES, CLASSES).argmax(axis=1) == SCORES.argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("drop", "needed"),
    [
        (Drop(0.5, -0.5, 1.5), 400),  # half-width 1 on 100 rows, 0.5 is left: four times the rows
        (Drop(0.0, -1.0, 0.5), 100),  # proved already
        (Drop(1.0, 0.0, 2.0), None),
        (Drop(1.2, 0.2, 2.2), None),
    ],
)
def test_rows_that_a_budget_takes(drop: Drop, needed: int | None) -> None:
    assert evaluate.rows_to_prove(drop, 100, 1.0) == needed


@pytest.mark.parametrize(("otherwise", "rows", "low", "high"), [(0, 60, 0, 5.96), (3, 100, 0.62, 8.52)])
def test_the_interval_of_agreement_is_that_of_a_share(otherwise: int, rows: int, low: float, high: float) -> None:
    """The figures are those of Clopper and Pearson's tables."""
    found = evaluate.disagreement(otherwise, rows)
    assert (found.points, found.low, found.high) == pytest.approx((100 * otherwise / rows, low, high), abs=5e-3)


def test_rows_that_a_budget_of_agreement_takes() -> None:
    needed = evaluate.rows_to_prove_agreement(evaluate.disagreement(0, 60), 60, 1.0)
    assert needed == pytest.approx(368, rel=0.02), "1 - 0.025 ** (1 / 368) is 1%"
    assert evaluate.rows_to_prove_agreement(evaluate.disagreement(0, 400), 400, 1.0) == 400
    assert evaluate.rows_to_prove_agreement(evaluate.disagreement(1, 100), 100, 1.0) is None
    some = evaluate.rows_to_prove_agreement(evaluate.disagreement(2, 400), 400, 1.0)
    assert some is not None
    assert evaluate.disagreement(-(-some // 200), some).high <= 1.0


def test_four_times_the_rows_halve_an_interval() -> None:
    """The formula's premise, on the bootstrap itself."""
    rng, widths = np.random.default_rng(3), []
    for rows in (500, 2000):
        actual = rng.random((rows, 2)) < 0.4
        before, after = actual ^ (rng.random((rows, 2)) < 0.1), actual ^ (rng.random((rows, 2)) < 0.12)
        first, second = (Metric().on(before, decided, actual, ("a", "b")) for decided in (before, after))
        drop = evaluate.bootstrap_drop(first, second, rows, resamples=1000)
        widths.append(drop.high - drop.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)


def test_labels_without_a_row_are_left_out_of_macro_f1_and_have_no_f1() -> None:
    actual, predicted = TARGETS > 0, SCORES >= 0.5
    wider = np.pad(actual, ((0, 0), (0, 2)))
    said = np.pad(predicted, ((0, 0), (0, 2)))
    said[:3, 5] = True
    scores = np.pad(SCORES, ((0, 0), (0, 2)))
    found, narrow = (
        evaluate.quality_of(*each)["macro_f1"] for each in ((scores, said, wider), (SCORES, predicted, actual))
    )
    assert found == pytest.approx(narrow)
    assert [entry["f1"] for entry in evaluate.per_label(said, wider, [*LABELS, "f", "g"])[5:]] == [None, None]


def test_numbers_are_judged_by_scipys_correlations_and_their_error() -> None:
    actual = RNG.normal(3, 1, (200, 1)).astype(np.float32)
    scores = actual + RNG.normal(0, 1, (200, 1)).astype(np.float32)
    found = evaluate.correlation_of(scores, actual)
    assert found["spearman"] == pytest.approx(spearmanr(scores[:, 0], actual[:, 0]).statistic)
    assert found["pearson"] == pytest.approx(pearsonr(scores[:, 0], actual[:, 0]).statistic)
    assert found["mean_absolute_error"] == pytest.approx(np.abs(scores - actual).mean(), rel=1e-5)


def test_the_distance_of_probabilities_is_half_of_l1_or_the_mean_over_labels() -> None:
    one, other = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]]), np.array([[0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    assert evaluate.total_variation(one, other, exclusive=True) == pytest.approx((0.2 + 1.0) / 2)
    assert evaluate.total_variation(one, other, exclusive=False) == pytest.approx((0.4 / 3 + 2 / 3) / 2)
    assert evaluate.total_variation(one, one, exclusive=True) == 0.0


def test_on_many_rows_fewer_resamples_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counting(weights: Array) -> Array:
        drawn.append(len(weights))
        return np.zeros(len(weights))

    monkeypatch.setattr(evaluate, "DRAWS", 1500 * 400)
    evaluate.bootstrap_drop(counting, counting, 400, resamples=10_000)
    assert sum(drawn) == 2 * (1500 + 1), "and once the rows as they are"
    drawn.clear()
    monkeypatch.setattr(evaluate, "DRAWS", 400)
    evaluate.bootstrap_drop(counting, counting, 400, resamples=10_000)
    assert sum(drawn) == 2 * (evaluate.FEWEST_RESAMPLES + 1)


def test_how_many_resamples_are_drawn_at_a_time_or_kept_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    actual = TARGETS > 0
    before, after = (macro_f1(actual ^ (RNG.random(actual.shape) < share)) for share in (0.1, 0.15))
    whole = evaluate.bootstrap_drop(before, after, 400, resamples=600)
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "KEPT", (0, 600 * 400))
        kept = [evaluate.bootstrap_drop(before, after, 400, resamples=600) for _ in range(2)]
    assert kept == [whole, whole]
    monkeypatch.setattr(evaluate, "CELLS", 7 * 400)
    assert evaluate.bootstrap_drop(before, after, 400, resamples=600) == whole


def test_probabilities_are_apart_by_their_difference_and_numbers_in_units_of_the_largest() -> None:
    shares = np.array([[0.25, 0.75], [0.5, 0.5]])
    assert evaluate.apart(shares, shares + np.array([[0, 0.125], [0, 0]])).tolist() == [0.125, 0]
    found = evaluate.apart(np.array([[1000.0], [2.0]]), np.array([[1001.0], [np.nan]]))
    assert found.tolist() == pytest.approx([1e-3, np.nan], nan_ok=True)


@pytest.mark.parametrize(("labels", "rows"), [(2, 40), (6, 300), (60, 240)])
def test_labels_in_another_order_are_seen_and_chance_is_not(labels: int, rows: int) -> None:
    rng = np.random.default_rng(1)
    actual = evaluate.one_hot(np.arange(rows) % labels, labels)
    wrong = rng.random(rows) < 0.2
    said = np.where(wrong, rng.integers(0, labels, rows), np.arange(rows) % labels)
    assert evaluate.other_order(evaluate.one_hot(said, labels), actual) is None
    assert evaluate.other_order(evaluate.one_hot(rng.integers(0, labels, rows), labels), actual) is None
    assert evaluate.other_order(evaluate.one_hot(np.zeros(rows, dtype=np.int64), labels), actual) is None
    swapped = np.roll(np.arange(labels), 1)
    found = evaluate.other_order(evaluate.one_hot(swapped[said], labels), actual)
    assert found is not None
    means, as_it_is, otherwise = found
    assert (means[swapped] == np.arange(labels)).mean() > 0.9
    assert as_it_is < 0.3 < 0.6 < otherwise
