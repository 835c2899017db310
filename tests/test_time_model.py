import json
import shutil
from dataclasses import replace
from itertools import chain
from math import log

import pytest
from made_rows import DEVICE, GEMM, SETTINGS, convolution, measurement, profile, seconds, tasks, write

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.layers import Activation, Linear, Norm, Phase
from latte_cli.lookup import Source, combine_passes
from latte_cli.store import open_store
from latte_cli.tasks import Task
from latte_cli.time_model import Prior, fit_time_model, folder_name, save_time_model, time_model

LAYERS = [
    *(convolution(n, c, k, 16) for n in (1, 4, 8) for c in (4, 8, 32, 64) for k in (8, 64)),
    *(Activation(shape=(n, c, 16, 16), function="relu") for n in (1, 4, 8) for c in (4, 32, 64)),
    *(Linear(rows=n, in_features=k, out_features=10) for n in (1, 4, 8) for k in (64, 512)),
]
TIMINGS = combine_passes([measurement(task) for task in tasks(LAYERS)])


@pytest.fixture(scope="module")
def model():
    return fit_time_model(TIMINGS, DEVICE, "0123456789abcdef")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with rows and the model that was fitted to them, which no test changes; and what was said."""
    store = open_store(str(tmp_path_factory.mktemp("made") / "store"), shipped=False)
    profile(store, LAYERS)
    return store, *kept(store)


@pytest.fixture
def store(made, tmp_path):
    """A copy of that store."""
    return open_store(shutil.copytree(made[0].uri, tmp_path / "store"), shipped=False)


def task(layer, phase=Phase.FORWARD, algorithm=FRAMEWORK_DEFAULT):
    return Task(layer=layer, phase=phase, algorithm=algorithm, settings=SETTINGS)


def test_unseen_layers_within_the_range_are_predicted_within_their_interval(model):
    unseen = [
        task(convolution(6, c, 24, 16), phase, algorithm)
        for c in (6, 48)
        for phase in convolution(1, 1, 1, 1).phases
        for algorithm in (FRAMEWORK_DEFAULT, GEMM)
    ]
    found = model.predict(unseen, DEVICE)
    assert set(found) == set(unseen)
    for one, timing in found.items():
        assert abs(log(timing.device_s / seconds(one))) < 0.5
        assert timing.low_s <= timing.device_s <= timing.high_s
        assert timing.source is Source.PREDICTED
        assert not timing.extrapolated


def test_the_algorithm_counts(model):
    layer = convolution(6, 48, 24, 16)
    default, gemm = (task(layer, algorithm=algorithm) for algorithm in (FRAMEWORK_DEFAULT, GEMM))
    found = model.predict([default, gemm], DEVICE)
    assert found[gemm].device_s < found[default].device_s


def test_a_kind_that_was_not_measured_is_not_predicted(model):
    assert model.predict([task(Norm(shape=(1, 8, 4, 4), function="batch"))], DEVICE) == {}


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (convolution(6, 48, 24, 16), ""),
        (convolution(64, 48, 24, 16), "convolution batch 64, measured 1 to 8"),
        (convolution(6, 1024, 24, 16), "convolution in channels 1.02e+03, measured 4 to 64"),
        (Activation(shape=(4, 32, 16, 16), function="gelu"), "activation gelu"),
    ],
)
def test_what_lies_outside_the_measured_range_is_named(model, layer, size):
    [timing] = model.predict([task(layer)], DEVICE).values()
    assert timing.extrapolated == size


def test_intervals_widen_with_the_distance_from_what_was_measured(model):
    widths = []
    for batch in (8, 32, 128):
        [timing] = model.predict([task(convolution(batch, 48, 24, 16))], DEVICE).values()
        assert timing.low_s < timing.low_80_s < timing.device_s < timing.high_80_s < timing.high_s
        widths.append(log(timing.high_s / timing.low_s))
    assert widths == sorted(set(widths))


def test_what_layers_have_in_common_of_their_errors_is_a_share():
    many = [convolution(n, c, k, 16) for n in (1, 2, 4, 8) for c in (4, 8, 16, 32, 64) for k in (8, 32, 64)]
    alike = fit_time_model(combine_passes([measurement(one) for one in tasks(many)]), DEVICE).card.alike
    assert set(alike) == {f"convolution {phase}" for phase in many[0].phases}
    assert all(0 <= share <= 1 for share in alike.values())


def test_few_rows_are_enough_for_a_roofline():
    few = combine_passes([measurement(task(Linear(rows=n, in_features=64, out_features=10))) for n in (1, 64)])
    wanted = task(Linear(rows=8, in_features=64, out_features=10))
    [timing] = fit_time_model(few, DEVICE).predict([wanted], DEVICE).values()
    assert timing.device_s == pytest.approx(seconds(wanted), rel=0.3)


def test_one_row_is_enough_for_that_layer():
    only = task(Linear(rows=8, in_features=64, out_features=10))
    [timing] = fit_time_model(combine_passes([measurement(only)]), DEVICE).predict([only], DEVICE).values()
    assert timing.device_s == pytest.approx(seconds(only), rel=0.01)


def kept(store):
    notes = []
    model = time_model(store, DEVICE.slug, lambda: combine_passes(store.measurements(DEVICE.slug)), notes.append)
    return model, notes


def test_the_model_is_kept_and_used_while_the_rows_are_the_same(made):
    store, first, said = made
    again, quiet = kept(store)
    wanted = [task(convolution(6, 48, 24, 16)), task(LAYERS[-1])]
    assert first.predict(wanted, DEVICE) == again.predict(wanted, DEVICE)
    assert len(said) == 1
    assert quiet == []
    folder = store.models_dir / f"times-{DEVICE.slug}"
    card = json.loads((folder / "card.json").read_text())
    assert card["schema"] == "latte.times/2"
    assert sorted(path.name for path in folder.glob("*.ubj")) == sorted(chain(*card["trees"].values()))


def test_new_rows_make_a_new_model_and_drop_the_old_trees(store):
    folder = store.models_dir / f"times-{DEVICE.slug}"
    before = {path.name for path in folder.glob("products-*.ubj")}
    profile(store, [convolution(2, 8, 8, 16)])
    _, notes = kept(store)
    assert len(notes) == 1
    after = {path.name for path in folder.glob("*.ubj")}
    assert before.isdisjoint(after)
    assert after == set(chain(*json.loads((folder / "card.json").read_text())["trees"].values()))


@pytest.mark.parametrize(
    "damage", ["card", "trees", "changed trees", "older names", "no trees", "list", "other features"]
)
def test_a_damaged_model_is_fitted_again(store, damage):
    folder = store.models_dir / f"times-{DEVICE.slug}"
    card, trees = folder / "card.json", min(folder.glob("*.ubj"))
    if damage == "card":
        card.write_bytes(card.read_bytes()[:100])
    elif damage == "trees":
        trees.write_bytes(trees.read_bytes()[:1000])
    elif damage == "changed trees":
        trees.write_bytes(trees.read_bytes().replace(b"L", b"l", 1))
    elif damage == "older names":
        older = trees.with_name("others-0-0123456789ab.ubj")
        card.write_text(card.read_text().replace(trees.name, older.name))
        trees.rename(older)
    elif damage == "no trees":
        trees.unlink()
    elif damage == "list":
        card.write_text("[]")
    else:
        card.write_text(card.read_text().replace("log_flops", "log_flips"))
    model, notes = kept(store)
    assert model.card.rows == len(TIMINGS)
    assert "fitting" in notes[-1]
    assert any("digest of its bytes" in note for note in notes) == (damage in ("trees", "changed trees", "older names"))
    assert kept(store)[1] == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("algorithms", lambda found: [*found, "torch/FFT"]),
        ("algorithms", lambda found: [*found, found[0]]),
        ("quantiles", lambda found: {**found, "": [-1e308, 0, 0, 1e308]}),
        ("quantiles", lambda found: {**found, "": [0.3, 0.1, 0.2, 0.4]}),
        ("rooflines", lambda found: {key: [0, 0, 0] for key in found}),
        ("rooflines", lambda found: {key: [1e300, 0, 1] for key in found}),
        ("offsets", lambda found: {"": 1e300}),
        ("ranges", lambda found: {key: {name: [9, 1] for name in each} for key, each in found.items()}),
        ("trees", lambda found: {**found, "more": found["products"]}),
        ("trees", lambda found: {**found, "others": found["products"]}),
    ],
)
def test_a_card_with_parts_that_cannot_be_is_fitted_again(store, name, change):
    path = store.models_dir / f"times-{DEVICE.slug}" / "card.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, name: change(card[name])}))
    notes = []
    assert time_model(store, DEVICE.slug, list, notes.append) is None
    assert len(notes) == 1 and "is damaged" in notes[0] and "it is fitted again" in notes[0]


def test_where_the_model_cannot_be_kept_it_is_used_and_this_is_said(store):
    shutil.rmtree(store.models_dir)
    store.models_dir.write_text("in the way")
    model, notes = kept(store)
    assert model.predict([task(LAYERS[0])], DEVICE)
    assert any("is not kept" in note for note in notes)


def test_a_device_without_times_has_no_model(store):
    shutil.rmtree(store.models_dir, ignore_errors=True)
    assert time_model(store, DEVICE.slug, list) is None


# Another device's model, known before

OTHER = replace(DEVICE, slug="another-cpu")
SLOWER = 3.0


def slower(tasks):
    """Timings of a device that takes three times as long for everything."""
    return combine_passes([measurement(one, time_s=SLOWER * seconds(one), device=OTHER) for one in tasks])


def test_few_rows_of_one_kind_are_enough_where_another_device_is_known(model):
    few = slower(tasks([Activation(shape=(n, 16, 16, 16), function="relu") for n in (2, 3, 5)]))
    unseen = task(convolution(6, 48, 24, 16))
    assert not fit_time_model(few, OTHER).predict([unseen], OTHER)
    [timing] = fit_time_model(few, OTHER, prior=Prior(DEVICE, model)).predict([unseen], OTHER).values()
    assert timing.device_s == pytest.approx(SLOWER * seconds(unseen), rel=0.4)
    assert timing.extrapolated


def test_a_device_like_none_other_keeps_its_own_rooflines(model):
    strange = combine_passes(
        [
            measurement(one, time_s=1e-3 + 1e-12 * one.layer.flops(one.phase), device=OTHER)
            for one in tasks(LAYERS)
            if one.algorithm == FRAMEWORK_DEFAULT
        ]
    )
    card = fit_time_model(strange, OTHER, prior=Prior(DEVICE, model)).card
    assert "convolution forward" not in card.offsets
    assert card.prior == DEVICE.slug


def test_a_model_with_a_prior_is_read_back_where_that_is_shipped_and_fitted_again_elsewhere(
    tmp_path, model, monkeypatch
):
    store = open_store(str(tmp_path / "store"), shipped=False)
    profile(store, LAYERS)
    write(store, [measurement(one, device=OTHER) for one in tasks(LAYERS[-3:])])
    shipped = tmp_path / "shipped"
    monkeypatch.setattr("latte_cli.time_model.keeping.shipped_models", lambda: shipped)
    own = fit_time_model(TIMINGS, DEVICE, store.fingerprint(DEVICE.slug))
    save_time_model(own, shipped / folder_name(DEVICE.slug))
    rows = combine_passes(store.measurements(OTHER.slug))
    heard: list[str] = []
    first = time_model(store, OTHER.slug, lambda: rows, heard.append)
    assert first.card.prior == DEVICE.slug
    again = time_model(store, OTHER.slug, lambda: pytest.fail("the rows were read again"), heard.append)
    unseen = task(convolution(6, 48, 24, 16))
    assert again.predict([unseen], OTHER)[unseen].device_s == pytest.approx(
        first.predict([unseen], OTHER)[unseen].device_s
    )
    assert [text.partition(", ")[2] for text in heard] == [f"moved by {first.card.rows} timings"]
    shutil.rmtree(shipped)
    assert time_model(store, OTHER.slug, lambda: rows, heard.append).card.prior == ""


def test_of_very_many_timings_some_layers_are_learned_from_whole():
    few, again = (fit_time_model(TIMINGS, DEVICE, most=len(TIMINGS) // 2).card for _ in range(2))
    assert few == again
    assert len(TIMINGS) // 4 < few.rows < 3 * len(TIMINGS) // 4
    assert fit_time_model(TIMINGS, DEVICE, most=len(TIMINGS)).card.rows == len(TIMINGS)
