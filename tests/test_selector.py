"""The selector: what it learns from, what it may choose, how it is judged, and its files."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from made_choices import DEVICE, FORWARD, MATRIX, SETTINGS, TRANSFORMED, convolution, profile, row
from safetensors import safe_open

from latte_cli import files
from latte_cli import selector as selectors
from latte_cli.algorithms import FRAMEWORK_DEFAULT, HEURISTIC, Algorithm
from latte_cli.devices import CPU, CUDA, Device
from latte_cli.errors import LatteError
from latte_cli.layers import Activation, Convolution, Layer, Phase
from latte_cli.measure import Evidence, Measurement, Outcome
from latte_cli.precisions import Layout, Precision
from latte_cli.selector import Decision, Preferences, Selector, mlp
from latte_cli.selector.evaluation import calibration_error, fitted_softness, fold_numbers, taken_s
from latte_cli.selector.workspaces import Workspaces
from latte_cli.store import open_store
from latte_cli.tasks import Question


@pytest.fixture(scope="module")
def known() -> list[Decision]:
    return selectors.decisions(profile())


@pytest.fixture(scope="module")
def fitted(known: list[Decision]) -> Selector:
    return selectors.fit_selector(known, seed=3)


def chosen(selector: Selector, layer: Layer, **limits: object) -> selectors.Choice:
    (choice,) = selector.choose([(layer, FORWARD)], SETTINGS, DEVICE, **limits)  # type: ignore[arg-type]
    return choice


# What there is to learn from


def test_passes_of_a_task_become_their_median() -> None:
    layer = convolution(8, 14)
    times = [row(layer, MATRIX, time_s, sweep_pass=number) for number, time_s in enumerate((1.0, 3.0, 9.0))]
    (decision,) = selectors.decisions([*times, row(layer, FRAMEWORK_DEFAULT, 2.0)])
    assert decision.times_s == {MATRIX: 3.0, FRAMEWORK_DEFAULT: 2.0}
    assert decision.best == FRAMEWORK_DEFAULT


def test_a_layer_of_which_one_algorithm_ran_leaves_no_choice() -> None:
    layer, relu = convolution(8, 14), Activation(shape=(8, 8), function="relu")
    rows = [row(layer, MATRIX, 1.0), row(layer, TRANSFORMED, None), row(layer, FRAMEWORK_DEFAULT, 0.0)]
    assert selectors.decisions([*rows, row(relu, FRAMEWORK_DEFAULT, 1.0), row(relu, MATRIX, 2.0)]) == []


def test_settings_and_devices_are_decided_apart() -> None:
    layer, other = convolution(8, 14), replace(SETTINGS, layout=Layout.CHANNELS_LAST)
    laptop = Device(slug="lap", kind=CPU, name="a laptop")
    rows = [
        row(layer, algorithm, 1.0, settings=settings, device=device)
        for algorithm in (MATRIX, FRAMEWORK_DEFAULT)
        for settings in (SETTINGS, other)
        for device in (DEVICE, laptop)
    ]
    assert len(selectors.decisions(rows)) == 4


WON = {MATRIX: 3, TRANSFORMED: 1}


def label(layer: Convolution, algorithm: Algorithm, number: int) -> Measurement:
    return replace(row(layer, algorithm, None, sweep_pass=number), evidence=Evidence.LABEL, outcome=Outcome.OK)


def answer(layer: Convolution, algorithm: Algorithm) -> Measurement:
    known = row(layer, algorithm, None)
    question = Question(layer=layer, phase=known.task.phase, ranker=HEURISTIC, settings=known.task.settings)
    return replace(known, task=question, evidence=Evidence.LABEL, outcome=Outcome.OK, ranking=(algorithm.name,))


def labels() -> list[Measurement]:
    """Of every layer three rows of four say what its rule says, and cuDNN's heuristic the other."""
    rows = []
    for decision in selectors.decisions(profile()):
        right, wrong = decision.best, MATRIX if decision.best != MATRIX else TRANSFORMED
        rows += [label(decision.layer, right if number else wrong, number) for number in range(4)]
        rows.append(answer(decision.layer, wrong))
    return rows


def test_who_won_is_a_decision_too_and_conflicting_rows_are_shares() -> None:
    layer, other = convolution(8, 8), convolution(8, 16)
    rows = [label(layer, won, number) for won, count in WON.items() for number in range(count)]
    rows += [label(other, FRAMEWORK_DEFAULT, 0), answer(layer, TRANSFORMED)]
    first, second = selectors.decisions(rows)
    assert (first.best, first.count, first.heuristic) == (MATRIX, 4, TRANSFORMED)
    assert [first.share(one) for one in (MATRIX, TRANSFORMED, FRAMEWORK_DEFAULT)] == [0.75, 0.25, 0.0]
    assert set(first.candidates) == set(second.candidates) == {MATRIX, TRANSFORMED, FRAMEWORK_DEFAULT}
    assert (second.best, second.heuristic) == (FRAMEWORK_DEFAULT, None)


def test_labels_with_times_of_the_same_layer_are_left_to_the_times() -> None:
    layer = convolution(8, 8)
    rows = [row(layer, FRAMEWORK_DEFAULT, 1.0), row(layer, MATRIX, 2.0), label(layer, MATRIX, 0)]
    (decision,) = selectors.decisions(rows)
    assert (decision.best, decision.wins) == (FRAMEWORK_DEFAULT, ())


def test_a_selector_learns_from_labels_and_is_judged_by_the_rows_that_agree() -> None:
    known = selectors.decisions(labels())
    scores = {score.method: score for score in selectors.evaluate(known).scores if score.phase == "all"}
    assert scores["oracle"].top1 == pytest.approx(0.75)  # the ceiling that conflicting rows leave
    assert scores["heuristic"].top1 == pytest.approx(0.25)
    assert scores["majority_class"].top1 < scores["selector"].top1 <= 0.75
    assert scores["selector"].top1 > 0.6
    assert math.isnan(scores["selector"].regret_geomean)


def test_layers_that_differ_in_batch_or_bias_share_a_fold() -> None:
    first = convolution(8, 14)
    alike = [replace(first, batch=batch, bias=bias) for batch in (1, 2, 64) for bias in (False, True)]
    others = [convolution(channels, 14) for channels in range(1, 40)]
    rows = [
        row(layer, algorithm, 1.0)
        for layer in (*alike, *others[:7], *others[8:])
        for algorithm in (MATRIX, TRANSFORMED)
    ]
    decisions = selectors.decisions(rows)
    for seed in range(5):
        folds = fold_numbers(decisions, seed=seed, folds=5)
        own = {fold for decision, fold in zip(decisions, folds, strict=True) if decision.layer in alike}
        assert len(own) == 1
        assert set(folds) == set(range(5))


def test_choices_learned_from_the_first_pass_are_judged_by_later_ones() -> None:
    rows = profile()
    slow = [replace(each, sweep_pass=1, summary_s=each.summary_s and 2 * each.summary_s) for each in rows]
    first, later = selectors.by_pass([*rows, *(each for each in slow if each.task.algorithm != MATRIX)])
    assert [decision.times_s for decision in first] == [d.times_s for d in selectors.decisions(rows)]
    for decision in first:
        again = later[decision.key]  # what was not timed again is as much slower as the others
        assert again.times_s == pytest.approx({one: 2 * time_s for one, time_s in decision.times_s.items()})
    scores = {(each.method, each.phase): each for each in selectors.evaluate(first, later=later).scores}
    assert scores["another_pass", "all"].regret_geomean == pytest.approx(1)
    assert scores["selector", "all"].regret_geomean < 1.2
    some = dict(list(later.items())[:20])
    judged = {each.method: each for each in selectors.evaluate(first, later=some).scores if each.phase == "all"}
    assert judged["selector"].layers == judged["oracle"].layers == 20


def test_confidences_are_fitted_to_what_was_left_out() -> None:
    draw, softness = np.random.default_rng(0), 0.3
    algorithms = (FRAMEWORK_DEFAULT, MATRIX, TRANSFORMED)
    ranked, outcomes = {}, {}
    for index in range(3000):
        losses = draw.uniform(0, 1, 3)
        shares = np.exp(-losses / softness)
        won = algorithms[draw.choice(3, p=shares / shares.sum())]
        ranked[index] = Preferences(
            algorithms=algorithms, losses=losses.tolist(), workspaces_bytes=[0.0] * 3, softness=1.0, otherwise=0.0
        )
        outcomes[index] = Decision(
            device=DEVICE,
            settings=SETTINGS,
            layer=convolution(8, 8),
            phase=FORWARD,
            wins=((won, 1),),
            candidates=algorithms,
        )
    assert fitted_softness(ranked, outcomes) == pytest.approx(softness, rel=0.1)
    assert calibration_error(ranked, outcomes, softness) < 0.03
    assert calibration_error(ranked, outcomes, 0.05) > 0.2  # far too sure
    assert math.isnan(calibration_error({}, {}, 1.0))


def test_more_layers_make_a_learning_curve(known: list[Decision]) -> None:
    curve = selectors.evaluate(known, curve=True).curve
    assert [point.layers for point in curve] == sorted(point.layers for point in curve)
    assert len(curve) >= 2
    assert curve[-1].regret_geomean <= curve[0].regret_geomean


def test_quality_is_judged_under_limits_too(known: list[Decision]) -> None:
    scores = selectors.evaluate(known, limits=(2**18,)).scores
    limited = [each for each in scores if each.limit_bytes == 2**18 and each.phase == "all"]
    assert {each.method for each in limited} == {"selector", "framework_default"}
    whole = next(each for each in scores if (each.method, each.phase, each.limit_bytes) == ("selector", "all", None))
    assert all(each.regret_geomean >= 1 and each.layers < whole.layers for each in limited)


def test_a_device_of_the_kind_that_was_not_learned_from_is_chosen_for_by_the_others(fitted: Selector) -> None:
    other = Device(slug="lap", kind=CPU, name="a laptop")
    (choice,) = fitted.choose([(convolution(160, 28), FORWARD)], SETTINGS, other)
    assert choice.algorithm == TRANSFORMED


def test_from_many_times_more_trees_are_learned(
    known: list[Decision], fitted: Selector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latte_cli.selector.trees._MANY_TIMES", 1)
    large = selectors.fit_selector(known, seed=3)
    assert len(large.model.as_files()["losses.ubj"]) > 1.5 * len(fitted.model.as_files()["losses.ubj"])
    chosen_alike = [chosen(large, one.layer).algorithm == chosen(fitted, one.layer).algorithm for one in known]
    assert sum(chosen_alike) > 0.8 * len(chosen_alike)


def test_the_card_says_which_features_tell_most(fitted: Selector) -> None:
    importance = fitted.card.importance
    assert sum(importance.values()) == pytest.approx(1)
    assert list(importance.values()) == sorted(importance.values(), reverse=True)
    assert "algorithm" in importance


# The perceptron of LATTE's own code


@pytest.fixture(scope="module")
def perceptron(known: list[Decision]) -> Selector:
    algorithms = sorted({algorithm for decision in known for algorithm in decision.ran})
    trained = mlp.fit_perceptrons(known, algorithms, seed=0, epochs=60)
    card = selectors.fit_selector(known).card
    return Selector(replace(card, kind="mlp", algorithms=algorithms, softness=1.0), trained, Workspaces())


def test_the_perceptron_learns_the_rule_from_the_raw_sizes(perceptron: Selector, known: list[Decision]) -> None:
    choices = perceptron.choose([(d.layer, d.phase) for d in known], SETTINGS, DEVICE)
    right = [choice.algorithm == decision.best for choice, decision in zip(choices, known, strict=True)]
    assert sum(right) / len(right) > 0.8


def test_numpy_computes_what_torch_trained(perceptron: Selector, known: list[Decision], tmp_path: Path) -> None:
    selectors.save_selector(perceptron, tmp_path)
    again = selectors.load_selector(tmp_path)
    assert (again.card.kind, again.model.kind) == ("mlp", "mlp")
    pairs = [(decision.layer, decision.phase) for decision in known]
    assert again.choose(pairs, SETTINGS, DEVICE) == perceptron.choose(pairs, SETTINGS, DEVICE)
    with safe_open(next(tmp_path.glob("*.safetensors")), framework="pt") as file:
        tensors = {name.partition("/")[2]: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    x = torch.tensor(mlp.sizes([layer for layer, _ in pairs]))
    x = x * torch.sigmoid(x @ tensors["gate/weight"].T + tensors["gate/bias"]) * tensors["importance"]
    for index in range(6):
        x = x @ tensors[f"{index}/weight"].T + tensors[f"{index}/bias"]
        x = torch.relu(x) if index < 5 else x
    wanted = -torch.log_softmax(x, dim=1)
    for right, own, pair in zip(wanted, again.rank(pairs, SETTINGS, DEVICE), pairs, strict=True):
        indices = [again.card.algorithms.index(algorithm) for algorithm in own.algorithms]
        assert own.losses == pytest.approx(right[indices].numpy(), rel=1e-3, abs=1e-4), pair


def test_the_perceptron_sees_the_paper_s_thirteen_numbers() -> None:
    layer = replace(convolution(3, 28, kernel=5, batch=4), out_channels=7, stride=(2, 1), dilation=(1, 2))
    assert mlp.sizes([layer]).tolist() == [[4, 3, 28, 28, 7, 5, 5, 2, 2, 2, 1, 1, 2]]


def test_what_the_perceptron_has_not_learned_is_not_preferred(perceptron: Selector) -> None:
    (preferences,) = perceptron.rank([(convolution(160, 28), FORWARD)], SETTINGS, Device(slug="x", kind=CPU, name=""))
    assert len(set(preferences.losses)) == 1


# What it chooses


def test_it_learns_which_algorithm_suits_which_layer(fitted: Selector) -> None:
    assert chosen(fitted, convolution(160, 28)).algorithm == TRANSFORMED
    assert chosen(fitted, convolution(12, 28)).algorithm == FRAMEWORK_DEFAULT
    assert chosen(fitted, convolution(160, 28, kernel=1)).algorithm == MATRIX


def test_a_choice_says_what_it_is_for(fitted: Selector) -> None:
    choice = chosen(fitted, convolution(160, 28))
    assert (choice.phase, choice.layout, choice.precision) == (FORWARD, Layout.NCHW, Precision.FP32)
    assert 0.5 < choice.confidence <= 1


def test_a_network_is_chosen_for_as_its_layers_are(fitted: Selector) -> None:
    pairs = [(convolution(channels, 28), FORWARD) for channels in (3, 12, 100, 160)]
    together = fitted.choose(pairs, SETTINGS, DEVICE)
    apart = [chosen(fitted, layer).algorithm for layer, _ in pairs]
    assert [choice.algorithm for choice in together] == apart
    assert fitted.choose([], SETTINGS, DEVICE) == []


def test_an_algorithm_that_refused_a_kernel_is_not_chosen_for_it(fitted: Selector) -> None:
    layers = [convolution(channels, size, kernel=1) for channels in (5, 100, 200) for size in (9, 40)]
    assert TRANSFORMED not in {chosen(fitted, layer).algorithm for layer in layers}


def test_a_kernel_that_was_not_measured_is_chosen_for_by_its_sort(fitted: Selector) -> None:
    assert chosen(fitted, convolution(160, 28, kernel=5)).confidence > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": 160},
        {"stride": (2, 2)},
        {"dilation": (2, 2)},
        {"transposed": True},
    ],
    ids=str,
)
def test_a_sort_of_layer_that_was_not_measured_gets_the_default(fitted: Selector, changes: dict[str, object]) -> None:
    choice = chosen(fitted, replace(convolution(160, 28), **changes))  # type: ignore[arg-type]
    assert (choice.algorithm, choice.confidence) == (FRAMEWORK_DEFAULT, 0)


def test_other_phases_precisions_and_devices_get_the_default(fitted: Selector) -> None:
    layer = convolution(160, 28)
    for phase, settings, device in (
        (Phase.BACKWARD_DATA, SETTINGS, DEVICE),
        (FORWARD, replace(SETTINGS, precision=Precision.BF16), DEVICE),
        (FORWARD, SETTINGS, Device(slug="gpu", kind=CUDA, name="a GPU")),
    ):
        (choice,) = fitted.choose([(layer, phase)], settings, device)
        assert (choice.algorithm, choice.confidence) == (FRAMEWORK_DEFAULT, 0)


def test_a_layer_with_one_way_gets_the_default_for_certain(fitted: Selector) -> None:
    choice = chosen(fitted, Activation(shape=(8, 8), function="relu"))
    assert (choice.algorithm, choice.confidence) == (FRAMEWORK_DEFAULT, 1)


def test_only_candidates_are_chosen(fitted: Selector) -> None:
    layer = convolution(160, 28)
    assert chosen(fitted, layer, candidates=[[MATRIX, FRAMEWORK_DEFAULT]]).algorithm != TRANSFORMED
    foreign = Algorithm(library="other", name="NEW")
    assert chosen(fitted, layer, candidates=[[foreign]]).algorithm == FRAMEWORK_DEFAULT


def test_a_workspace_limit_is_kept_on_layers_not_measured(fitted: Selector) -> None:
    layer = convolution(160, 28)
    output_bytes = 4 * prod(layer.output_shape)
    assert chosen(fitted, layer, workspace_limit_bytes=7 * output_bytes).algorithm == TRANSFORMED
    assert chosen(fitted, layer, workspace_limit_bytes=5 * output_bytes).algorithm != TRANSFORMED
    assert chosen(fitted, layer, workspace_limit_bytes=0).algorithm == FRAMEWORK_DEFAULT


def test_no_choice_exceeds_a_limit_that_it_was_measured_to_exceed(known: list[Decision], fitted: Selector) -> None:
    for decision in known:
        workspaces = {timing.task.algorithm: timing.workspace_bytes or 0 for timing in decision.timings}
        for limit in {max(0, workspace - 1) for workspace in workspaces.values()}:
            assert workspaces[chosen(fitted, decision.layer, workspace_limit_bytes=limit).algorithm] <= limit


def test_an_algorithm_without_a_known_workspace_fits_any_limit() -> None:
    rows = [replace(each, workspace_bytes=None) for each in profile()]
    blind = selectors.fit_selector(selectors.decisions(rows))
    assert chosen(blind, convolution(160, 28), workspace_limit_bytes=0).algorithm == TRANSFORMED


def test_devices_with_opposite_habits_share_a_selector() -> None:
    laptop = Device(slug="lap", kind=CPU, name="a laptop")
    slow = [
        replace(each, summary_s=each.summary_s and each.summary_s * (9 if each.task.algorithm == TRANSFORMED else 1))
        for each in profile(laptop)
    ]
    both = selectors.fit_selector(selectors.decisions([*profile(), *slow]))
    layer = convolution(160, 28)
    (here,), (there,) = (both.choose([(layer, FORWARD)], SETTINGS, device) for device in (DEVICE, laptop))
    assert (here.algorithm, there.algorithm) == (TRANSFORMED, FRAMEWORK_DEFAULT)


# How it is judged


def test_unseen_layers_are_chosen_for_better_than_by_default_or_habit(known: list[Decision]) -> None:
    done: list[float] = []
    scores = selectors.evaluate(known, seed=1, folds=4, done=done.append).scores
    assert done == [1, 2, 3, 4]
    regret = {score.method: score.regret_geomean for score in scores if score.phase == "all"}
    assert regret["oracle"] == 1
    assert regret["selector"] < 1.1 < min(regret["majority_class"], regret["framework_default"])
    assert {score.layers for score in scores} == {36}


def test_regret_and_hits_are_counted_by_hand() -> None:
    layers = [convolution(channels, 14) for channels in range(1, 9)]
    times = [(1.0, 1.04), (1.0, 1.04), (1.0, 1.04), (1.0, 2.0), (1.0, 2.0), (1.0, 2.0), (4.0, 2.0), (8.0, 2.0)]
    rows = []
    for layer, (other_s, default_s) in zip(layers, times, strict=True):
        rows += [row(layer, MATRIX, other_s), row(layer, FRAMEWORK_DEFAULT, default_s)]
    scores = selectors.evaluate(selectors.decisions(rows)).scores
    (score,) = (each for each in scores if (each.method, each.phase) == ("framework_default", "forward"))
    assert (score.top1, score.within_5pct, score.layers) == (0.25, 0.625, 8)
    assert score.regret_geomean == pytest.approx((1.04**3 * 2**3) ** (1 / 8))
    assert score.regret_total_time == pytest.approx((3 * 1.04 + 5 * 2) / 10)


def test_phases_are_judged_apart_and_together() -> None:
    known = selectors.decisions(profile(phases=(FORWARD, Phase.BACKWARD_DATA)))
    scores = selectors.evaluate(known, folds=2).scores
    assert {score.phase for score in scores} == {"forward", "backward_data", "all"}


def test_rows_without_the_default_are_judged_without_it() -> None:
    rows = [each for each in profile() if each.task.algorithm != FRAMEWORK_DEFAULT]
    scores = selectors.evaluate(selectors.decisions(rows), folds=2).scores
    assert {score.method for score in scores} == {"selector", "majority_class", "oracle"}


def test_a_choice_that_did_not_run_counts_as_the_slowest(known: list[Decision]) -> None:
    refusing = next(decision for decision in known if decision.refused)
    assert taken_s(refusing, refusing.refused[0]) == max(refusing.times_s.values())


def test_too_few_layers_are_an_error_that_names_the_next_command(known: list[Decision]) -> None:
    for attempt in (lambda: selectors.evaluate(known[:6]), lambda: selectors.fit_selector([])):
        with pytest.raises(LatteError, match="too few rows") as caught:
            attempt()
        assert "latte profile" in (caught.value.hint or "")


def test_the_time_of_a_prediction_is_the_median_of_seven(fitted: Selector, known: list[Decision]) -> None:
    ticks = iter(range(100))
    assert selectors.prediction_s(fitted, known, clock=lambda: float(next(ticks))) == 1.0


# Its files


def test_what_is_loaded_chooses_as_what_was_saved(fitted: Selector, known: list[Decision], tmp_path: Path) -> None:
    selectors.save_selector(fitted, tmp_path / "s")
    loaded = selectors.load_selector(tmp_path / "s")
    pairs = [(decision.layer, decision.phase) for decision in known]
    assert loaded.choose(pairs, SETTINGS, DEVICE) == fitted.choose(pairs, SETTINGS, DEVICE)
    assert loaded.card.ran == fitted.card.ran


def test_the_same_rows_and_seed_make_the_same_files(fitted: Selector, known: list[Decision], tmp_path: Path) -> None:
    selectors.save_selector(fitted, tmp_path / "a")
    selectors.save_selector(selectors.fit_selector(known, seed=3), tmp_path / "b")
    first, second = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())} for name in ("a", "b")
    )
    assert first == second


def test_the_card_says_how_it_was_made(fitted: Selector, known: list[Decision], tmp_path: Path) -> None:
    scores = selectors.evaluate(known, folds=2).scores
    selectors.save_selector(selectors.fit_selector(known, seed=5, scores=scores, made_at=12.5), tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["schema"] == "latte.selector/2"
    assert (card["seed"], card["made_at"], card["devices"], card["decisions"]) == (5, 12.5, ["desk"], 36)
    assert card["settings"] == ["fp32 nchw 2 threads"]
    assert len(card["scores"]) == len(scores)
    assert {"latte", "xgboost"} <= card["versions"].keys()
    assert card["fingerprint"] == fitted.card.fingerprint


def test_a_newer_selector_replaces_the_older_and_leaves_nothing(
    fitted: Selector, known: list[Decision], tmp_path: Path
) -> None:
    selectors.save_selector(fitted, tmp_path)
    selectors.save_selector(selectors.fit_selector(known, seed=4), tmp_path)
    assert selectors.load_selector(tmp_path).card.seed == 4
    names = sorted(path.name.partition("-")[0] for path in tmp_path.iterdir())
    assert names == ["card.json", "forward", "losses", "workspaces"]


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("fails_at", range(4))
def test_a_selector_that_finds_no_room_leaves_what_was_there(
    fitted: Selector, known: list[Decision], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool, fails_at: int
) -> None:
    folder = tmp_path / "selector-desk"
    if older:
        selectors.save_selector(fitted, folder)
    before = sorted(tmp_path.rglob("*"))
    left = iter([files.write_file] * fails_at)

    def write(path: Path, content: bytes | str) -> None:
        next(left, full)(path, content)

    def full(path: Path, content: bytes | str) -> None:
        raise LatteError("no space left")

    monkeypatch.setattr(files, "write_file", write)
    with pytest.raises(LatteError, match="no space left"):
        selectors.save_selector(selectors.fit_selector(known, seed=4), folder)
    assert sorted(tmp_path.rglob("*")) == before
    assert not older or selectors.load_selector(folder).card.seed == fitted.card.seed


def test_a_folder_without_a_card_is_no_selector_and_hides_none(fitted: Selector, tmp_path: Path) -> None:
    store = open_store(str(tmp_path), shipped=False)
    assert store.models_dir
    (store.models_dir / "selector-desk").mkdir(parents=True)
    assert selectors.find(store, "desk") is None
    selectors.save_selector(fitted, store.models_dir / "selector-all")
    assert selectors.find(store, "desk") is not None


def _edited(change: Callable[[dict[str, object]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        card = json.loads((folder / "card.json").read_text())
        change(card)
        (folder / "card.json").write_text(json.dumps(card))

    return edit


def _flipped(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


def _model(folder: Path) -> Path:
    (path,) = folder.glob("losses-*.ubj")
    return path


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / "card.json").unlink(), "there is no selector"),
        (lambda folder: (folder / "card.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "card.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "card.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda folder: _model(folder).unlink(), "damaged"),
        (lambda folder: _model(folder).write_bytes(b"no model"), "damaged"),
        (lambda folder: _model(folder).write_bytes(_model(folder).read_bytes()[:500]), "damaged"),
        (_edited(lambda card: card.update(schema="latte.selector/1")), "latte.selector/1"),
        (_edited(lambda card: card.update(feature_version=0)), "other features"),
        (_edited(lambda card: card.update(features=["kind"])), "other features"),
        (_edited(lambda card: card.update(features=3)), "damaged"),
        (_edited(lambda card: card.pop("ran")), "damaged"),
        (_edited(lambda card: card.update(algorithms=3)), "damaged"),
        (_edited(lambda card: card.update(files={"losses.ubj": "../elsewhere.ubj"})), "damaged"),
        (_edited(lambda card: card.update(ran={"": [99]})), "damaged"),
        (_edited(lambda card: card.update(classes={"forward": [99]})), "damaged"),
        (_edited(lambda card: card.update(classes={})), "damaged"),
        (_edited(lambda card: card["files"].pop("losses.ubj")), "damaged"),
        (_edited(lambda card: card["files"].update({"losses.ubj": card["files"]["workspaces.ubj"]})), "damaged"),
        (_edited(lambda card: card.update(kind="pickle")), "damaged"),
        (_edited(lambda card: card.update(kind="mlp")), "damaged"),
        (lambda folder: _model(folder).write_bytes(_flipped(_model(folder).read_bytes())), "digest of its bytes"),
        (_edited(lambda card: card["classes"]["forward"].append(0)), "twice"),
        (_edited(lambda card: card["classes"]["forward"].pop()), "its model is not that of its card"),
        (_edited(lambda card: card["classes"].update(forward=[0])), "`classes.forward`: it has 1 entries"),
        (_edited(lambda card: card["devices"].append("desk")), "twice"),
        (_edited(lambda card: card["algorithms"].append(card["algorithms"][0])), "twice"),
        (_edited(lambda card: card.update(algorithms=card["algorithms"] * 2000)), "entries"),
        (_edited(lambda card: card.update(softness=math.nan)), "`softness`"),
        (_edited(lambda card: card.update(made_at=10**400)), "`made_at`"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_a_hint(
    fitted: Selector, tmp_path: Path, harm: Callable[[Path], object], said: str
) -> None:
    selectors.save_selector(fitted, tmp_path)
    harm(tmp_path)
    with pytest.raises(LatteError, match=said) as caught:
        selectors.load_selector(tmp_path)
    assert "\n" not in caught.value.message
    assert "latte train-selector" in (caught.value.hint or "")


def test_a_folder_that_cannot_be_written_is_an_error(fitted: Selector, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LatteError, match="cannot write the selector"):
        selectors.save_selector(fitted, tmp_path / "file" / "s")


def test_the_newest_selector_that_knows_the_device_is_found(fitted: Selector, tmp_path: Path) -> None:
    store = open_store(str(tmp_path), shipped=False)
    models = store.models_dir
    assert models is not None
    assert selectors.find(store, "desk") is None
    for name, made_at in (("selector-all", 2.0), ("selector-desk", 1.0)):
        selectors.save_selector(
            Selector(replace(fitted.card, made_at=made_at), fitted.model, fitted.workspaces), models / name
        )
    (models / "selector-of-nobody").mkdir()
    found = selectors.find(store, "desk")
    assert found is not None and found.card.made_at == 2.0
    assert selectors.find(store, "lap") is None


def test_a_damaged_selector_of_the_device_is_not_passed_over(fitted: Selector, tmp_path: Path) -> None:
    store = open_store(str(tmp_path), shipped=False)
    assert store.models_dir is not None
    folder = store.models_dir / "selector-desk"
    selectors.save_selector(fitted, folder)
    (folder / "card.json").write_text("")
    with pytest.raises(LatteError, match="damaged"):
        selectors.find(store, "desk")


@pytest.mark.parametrize("made_at", [10**400, math.nan, "now", None])
def test_a_selector_of_no_moment_is_named_where_it_bears_the_devices_name(
    fitted: Selector, tmp_path: Path, made_at: object
) -> None:
    store = open_store(str(tmp_path), shipped=False)
    assert store.models_dir is not None
    selectors.save_selector(fitted, store.models_dir / "selector-desk")
    _edited(lambda card: card.update(made_at=made_at))(store.models_dir / "selector-desk")
    with pytest.raises(LatteError, match="`made_at`"):
        selectors.find(store, "desk")


def test_perceptrons_of_other_algorithms_are_refused(fitted: Selector, known: list[Decision], tmp_path: Path) -> None:
    weights = mlp.fit_perceptrons(known, fitted.card.algorithms, seed=0, epochs=1)
    card = replace(fitted.card, kind="mlp", classes={})
    selectors.save_selector(Selector(card, weights, fitted.workspaces), tmp_path)
    assert selectors.load_selector(tmp_path).model.kind == "mlp"
    more = {"library": "torch", "name": "FFT", "vendor_id": None}
    _edited(lambda card: card["algorithms"].append(more))(tmp_path)  # type: ignore[attr-defined]
    with pytest.raises(LatteError, match="its model is not that of its card"):
        selectors.load_selector(tmp_path)


def test_neither_importing_nor_fitting_needs_torch_or_scikit_learn(fitted: Selector, tmp_path: Path) -> None:
    selectors.save_selector(fitted, tmp_path)
    code = (
        "import sys\n"
        "sys.modules['sklearn'] = None\n"  # XGBoost imports it where it is installed
        "from pathlib import Path\n"
        "from latte_cli import selector\n"
        "assert not {'xgboost', 'torch'} & sys.modules.keys()\n"
        f"selector.load_selector(Path({str(tmp_path)!r}))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
