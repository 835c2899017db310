"""How the selector's trees are grown: objective, matrix, when to stop, and how much is learned from."""

from dataclasses import replace

import numpy as np
import pytest
from made_choices import DEVICE, FORWARD, MATRIX, SETTINGS, TRANSFORMED, convolution, profile, row

from latte_cli import boosters
from latte_cli import selector as selectors
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.selector import evaluation, growth
from latte_cli.selector.examples import examples_of, without_impossible_times
from latte_cli.selector.listwise import Listwise
from latte_cli.selector.model import Lesson

STARTS = np.array([0, 2, 5])
WINS = np.array([1.0, 0.0, 0.0, 3.0, 1.0])
LOSSES = np.array([0.0, 0.5, 0.9, 0.0, 0.1])


def objective() -> Listwise:
    return Listwise(STARTS, WINS, LOSSES, gains=np.array([0.7, 0.1]), counts=np.array([1.0, 4.0]))


def test_the_gradient_is_that_of_the_objective() -> None:
    scores = np.random.default_rng(0).normal(size=5)
    slopes, curvatures = objective().gradient(scores)
    for at in range(5):
        step = np.zeros(5)
        step[at] = 1e-5
        above, below = (objective().value(scores + sign * step) for sign in (1, -1))
        assert slopes[at] == pytest.approx(5 * (above - below) / 2e-5, abs=1e-5)  # the value is a mean over five rows
    assert (curvatures > 0).all()
    assert slopes[:2].sum() == pytest.approx(0) == slopes[2:].sum()


def test_the_objective_is_least_where_the_winner_is_sure() -> None:
    sure, split, wrong = (np.array(each, dtype=float) for each in ([9, 0, 0, 9, 0], [0] * 5, [0, 9, 9, 0, 0]))
    assert objective().value(sure) < objective().value(split) < objective().value(wrong)


def test_a_matrix_made_in_blocks_is_the_same_as_one_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    known = selectors.decisions(profile())
    whole = selectors.fit_selector(known).model.as_files()
    monkeypatch.setattr(boosters, "_BLOCK", 7)
    assert selectors.fit_selector(known).model.as_files().keys() == whole.keys()
    blocks = selectors.fit_selector(known)
    chosen = [blocks.choose([(one.layer, one.phase)], SETTINGS, DEVICE)[0].algorithm for one in known]
    assert np.mean([one == each.best for one, each in zip(chosen, known, strict=True)]) > 0.9


def test_rounds_stop_where_what_is_left_out_gets_no_better(monkeypatch: pytest.MonkeyPatch) -> None:
    known = selectors.decisions(profile(phases=(FORWARD,)))
    most = _rounds(selectors.fit_selector(known))
    monkeypatch.setattr(growth, "_LEAST_TUNING", 1)
    monkeypatch.setattr(growth, "_TUNING", 3)
    monkeypatch.setattr(growth, "_PATIENCE", 2)
    assert 0 < _rounds(selectors.fit_selector(known)) < most


def _rounds(selector: selectors.Selector) -> int:
    content = selector.model.as_files()["losses.ubj"]
    return int(boosters.load_booster(content, len(selector.card.features) + 2).num_boosted_rounds())


def test_parts_of_examples_are_those_of_the_decisions() -> None:
    lesson = Lesson.of(selectors.decisions(profile()))
    chosen = np.array([5, 0, 17])
    part = lesson.part(chosen)
    again = examples_of([lesson.decisions[at] for at in chosen], lesson.algorithms, lesson.devices)
    for name in ("features", "starts", "indices", "losses", "wins", "gains", "counts", "needs_bytes"):
        np.testing.assert_array_equal(getattr(part.examples, name), getattr(again, name), err_msg=name)


def test_candidates_that_never_win_are_left_to_the_losses() -> None:
    layer, other = convolution(8, 8), convolution(16, 8)
    rows = [row(layer, MATRIX, 1.0), row(layer, TRANSFORMED, 2.0), row(layer, FRAMEWORK_DEFAULT, 3.0)]
    rows += [row(other, MATRIX, 2.0), row(other, FRAMEWORK_DEFAULT, 1.0)]
    lesson = Lesson.of(selectors.decisions(rows))
    winners = np.array([lesson.algorithms.index(one) for one in (MATRIX, FRAMEWORK_DEFAULT)])
    among = lesson.examples.among(np.sort(winners))
    assert np.diff(among.starts).tolist() == [2, 2]
    assert set(among.indices.tolist()) == set(winners.tolist())


def test_a_selector_that_is_only_judged_learns_from_whole_shapes_of_a_large_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        row(replace(convolution(channels, 14), batch=batch), algorithm, time_s)
        for channels in range(1, 41)
        for batch in (1, 2, 4)
        for algorithm, time_s in ((MATRIX, 1.0), (TRANSFORMED, 2.0))
    ]
    known = selectors.decisions(rows)
    folds = np.array(evaluation.fold_numbers(known, seed=0, folds=5))
    train = np.flatnonzero(folds)
    examples = Lesson.of(known).examples
    monkeypatch.setattr("latte_cli.selector.evaluation._MOST_JUDGED", 60)
    some = evaluation._some(examples, train, 0)
    assert 60 <= np.diff(examples.starts)[some].sum() <= 66
    assert set(some.tolist()) <= set(train.tolist())
    counts = np.bincount(examples.shapes[some])
    assert set(counts[counts > 0].tolist()) == {3}
    score = next(each for each in selectors.evaluate(known).scores if (each.method, each.phase) == ("selector", "all"))
    assert score.layers == 120


def test_times_above_those_of_a_larger_batch_teach_nothing() -> None:
    layer = convolution(8, 8)
    times = {1: (1.0, 9.0, 2.0), 2: (1.5, 3.0, 2.5), 4: (2.0, 3.0, 3.0)}
    algorithms = (MATRIX, TRANSFORMED, FRAMEWORK_DEFAULT)
    rows = [
        row(replace(layer, batch=batch), algorithm, time_s)
        for batch, own in times.items()
        for algorithm, time_s in zip(algorithms, own, strict=True)
    ]
    known = {decision.layer.batch: decision for decision in selectors.decisions(rows)}
    left = without_impossible_times(list(known.values()))
    assert {one.layer.batch: set(one.times_s) for one in left} == {
        1: {MATRIX, FRAMEWORK_DEFAULT},
        2: set(algorithms),
        4: set(algorithms),
    }
    others = [replace(one, layer=replace(one.layer, out_channels=16)) if one.layer.batch > 1 else one for one in left]
    assert without_impossible_times([known[1], *others[1:]])[0] == known[1]  # of other layers nothing follows
