"""How the selector's trees are grown: examples, matrices, rounds, and how much is learned from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_choices import DEVICE, MATRIX, SETTINGS, TRANSFORMED, convolution, profile, row

from latte_cli import boosters
from latte_cli import selector as selectors
from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.measure import Measurement
from latte_cli.selector import Selector, evaluation, trees
from latte_cli.selector.examples import examples_of
from latte_cli.selector.model import Lesson
from latte_cli.store import open_store

BATCHES = (1, 4, 16)


def rows_at_batches() -> list[Measurement]:
    return [
        row(replace(convolution(width, 14), batch=batch), algorithm, time_s)
        for width in range(1, 41)
        for batch in BATCHES
        for algorithm, time_s in ((MATRIX, 1.0), (TRANSFORMED, 2.0))
    ]


def test_a_matrix_made_in_blocks_is_the_same_as_one_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    known = selectors.decisions(profile())
    whole = selectors.fit_selector(known).model.as_files()
    monkeypatch.setattr(boosters, "_BLOCK", 7)
    blocks = selectors.fit_selector(known)
    assert blocks.model.as_files().keys() == whole.keys()
    chosen = [blocks.choose([(one.layer, one.phase)], SETTINGS, DEVICE)[0].algorithm for one in known]
    assert np.mean([one == each.best for one, each in zip(chosen, known, strict=True)]) > 0.9


def test_candidates_asked_about_in_blocks_get_the_same_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    known = selectors.decisions(profile())
    fitted, pairs = selectors.fit_selector(known), [(one.layer, one.phase) for one in known]
    whole = fitted.rank(pairs, SETTINGS, DEVICE)
    monkeypatch.setattr(trees, "_BLOCK", 5)
    assert fitted.rank(pairs, SETTINGS, DEVICE) == whole


def test_of_more_rows_than_the_work_allows_for_some_are_learned_from() -> None:
    known = selectors.decisions(profile())
    examples = Lesson.of(known).examples
    candidates, counts = len(examples.indices), np.diff(examples.starts)
    whole, again, half = (
        trees.fit_trees(examples, [DEVICE.slug], seed=0, most_work=work).as_files()
        for work in (trees.MOST_WORK, 40 * candidates, 20 * candidates)
    )
    assert whole["losses.ubj"] == again["losses.ubj"] != half["losses.ubj"]
    assert candidates / 3 < counts[trees._some(counts, candidates // 2, 0)].sum() <= candidates / 2
    assert len(trees._some(counts, candidates, 0)) == len(counts)


def test_parts_of_examples_are_those_of_the_decisions() -> None:
    lesson = Lesson.of(selectors.decisions(profile()))
    chosen = np.array([5, 0, 17])
    part = lesson.part(chosen)
    again = examples_of([lesson.decisions[at] for at in chosen], lesson.algorithms, lesson.devices)
    for name in vars(again):
        if name != "shapes":
            np.testing.assert_array_equal(getattr(part.examples, name), getattr(again, name), err_msg=name)


def test_of_a_large_table_whole_shapes_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    known = selectors.decisions(rows_at_batches())
    examples = Lesson.of(known).examples
    monkeypatch.setattr("latte_cli.selector.evaluation._MOST_JUDGED", 60)
    some = evaluation._some(examples, 0)
    assert 60 <= np.diff(examples.starts)[some].sum() <= 66
    counts = np.bincount(examples.shapes[some])
    assert set(counts[counts > 0].tolist()) == {len(BATCHES)}
    judged = selectors.evaluate(known)
    score = next(each for each in judged.scores if (each.method, each.phase) == ("selector", "all"))
    assert score.layers == len(some) == round(judged.judged_share * len(known))


def test_rows_of_one_phase_at_a_time_are_the_same_choices(tmp_path: Path) -> None:
    phases = convolution(8, 8).phases
    rows = profile(phases=phases)
    store = open_store(str(tmp_path), shipped=False)
    with store.writer(DEVICE) as writer:
        writer.extend(rows)
    together = selectors.by_pass_and_part([store.measurements(DEVICE.slug)])
    apart = selectors.by_pass_and_part(store.measurements(DEVICE.slug, phases={phase}) for phase in phases)
    assert {one.key: one for one in together[0]} == {one.key: one for one in apart[0]}
    assert len(together[0]) == len(apart[0]) == 3 * len(selectors.decisions(profile()))


def test_a_selector_of_an_earlier_version_still_chooses(tmp_path: Path) -> None:
    """Its trees see gaps where nothing is known of a layer."""
    known = selectors.decisions(profile())
    fitted = selectors.fit_selector(known)
    examples = Lesson.of(known).examples
    columns = np.column_stack([examples.features, examples.devices])
    each = np.column_stack([columns[examples.rows], examples.indices])
    xgboost = boosters.xgboost_module()
    losses = xgboost.train({"max_depth": 6}, xgboost.DMatrix(each, label=examples.losses), 20)
    classes = [*fitted.card.classes["forward"]]
    winners = examples.wins > 0
    labels = np.searchsorted(classes, examples.indices[winners])
    wins = xgboost.train(
        {"objective": "multi:softprob", "num_class": len(classes)},
        xgboost.DMatrix(columns[examples.rows[winners]], label=labels),
        20,
    )
    model = trees.Trees({"losses": losses, "forward": wins}, [DEVICE.slug], {"forward": classes})
    selectors.save_selector(Selector(fitted.card, model, fitted.workspaces), tmp_path)
    loaded = selectors.load_selector(tmp_path)
    chosen = loaded.choose([(one.layer, one.phase) for one in known], SETTINGS, DEVICE)
    right = np.mean([choice.algorithm == one.best for choice, one in zip(chosen, known, strict=True)])
    assert right > 0.9


def test_the_default_is_chosen_as_any_other() -> None:
    layer, other = convolution(8, 8), convolution(16, 8)
    rows = [row(layer, MATRIX, 1.0), row(layer, TRANSFORMED, 2.0), row(layer, FRAMEWORK_DEFAULT, 3.0)]
    rows += [row(other, MATRIX, 2.0), row(other, FRAMEWORK_DEFAULT, 1.0)]
    examples = Lesson.of(selectors.decisions(rows)).examples
    assert np.diff(examples.starts).tolist() == [3, 2]
    assert examples.wins.sum() == 2
    np.testing.assert_allclose(sorted(examples.losses), [0, 0, 0.5, 0.5, 2 / 3])
