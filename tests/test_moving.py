"""Moving another device's time model by a few rows: the factor, what is drawn to it, and the intervals."""

from dataclasses import replace
from math import exp, log

import pytest
from made_rows import DEVICE, SETTINGS, convolution, measurement, seconds, tasks

from latte_cli.algorithms import FRAMEWORK_DEFAULT
from latte_cli.layers import Activation, Linear, Norm, Phase
from latte_cli.lookup import combine_passes
from latte_cli.tasks import Task
from latte_cli.time_model import Prior, TimeModel, fit_time_model, move_model

HERE = replace(DEVICE, slug="machine-at-hand-2c-2t")
LAYERS = [
    *(convolution(n, c, k, 16) for n in (1, 4, 8) for c in (4, 8, 32, 64) for k in (8, 64)),
    *(Activation(shape=(n, c, 16, 16), function="relu") for n in (1, 4, 8) for c in (4, 32, 64)),
    *(Linear(rows=n, in_features=k, out_features=10) for n in (1, 4, 8) for k in (64, 512)),
]
UNSEEN = (convolution(6, 48, 24, 16), Activation(shape=(2, 48, 16, 16), function="relu"))


@pytest.fixture(scope="module")
def prior() -> Prior:
    timings = combine_passes([measurement(task) for task in tasks(LAYERS)])
    return Prior(DEVICE, fit_time_model(timings, DEVICE, "0123456789abcdef"))


def task(layer, phase=Phase.FORWARD) -> Task:
    return Task(layer=layer, phase=phase, algorithm=FRAMEWORK_DEFAULT, settings=SETTINGS)


def rows(layers, factor: float):
    """Timings of `layers` forward on a machine that takes `factor` times as long."""
    return combine_passes([measurement(task(one), device=HERE, time_s=factor * seconds(task(one))) for one in layers])


def predicted(model, layer, phase=Phase.FORWARD):
    (timing,) = model.predict([task(layer, phase)], HERE).values()
    return timing


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_a_few_rows_move_everything_that_the_other_device_knows(prior, factor):
    model = move_model(rows(LAYERS[:6], factor), HERE, "f", prior)
    for layer in UNSEEN:
        there = exp(float(prior.log_times([task(layer)])[0]))
        timing = predicted(model, layer)
        assert timing.device_s == pytest.approx(factor * there, rel=0.3)
        assert timing.low_s < timing.low_80_s < timing.device_s < timing.high_80_s < timing.high_s
        assert timing.low_s < factor * seconds(task(layer)) < timing.high_s


def test_a_kind_has_its_own_factor_the_more_so_the_more_rows_it_has(prior):
    activations, convolutions = LAYERS[24:33], LAYERS[:8]

    def factor(count: int) -> float:
        both = [*rows(convolutions, 1.0), *rows(activations[:count], 4.0)]
        model = move_model(both, HERE, "f", prior)
        return predicted(model, UNSEEN[1]).device_s / exp(float(prior.log_times([task(UNSEEN[1])])[0]))

    few, many = factor(1), factor(9)
    assert 1 < few <= many * 1.1
    assert many == pytest.approx(4, rel=0.3)


def test_intervals_narrow_with_rows(prior):
    widths = []
    for count in (1, 4, 16):
        timing = predicted(move_model(rows(LAYERS[:count], 2.0), HERE, "f", prior), UNSEEN[0])
        widths.append(log(timing.high_s / timing.low_s))
    assert widths == sorted(widths, reverse=True)


def test_what_moves_a_kind_moves_its_calls_together(prior):
    card = replace(prior.model.card, alike={"convolution forward": 0.1})
    apart = Prior(DEVICE, TimeModel(card, prior.model.trees))
    alike = [
        predicted(move_model(rows(LAYERS[:count], 2.0), HERE, "f", apart), UNSEEN[0]).alike for count in (1, 4, 16)
    ]
    assert 1 > alike[0] > alike[1] > alike[2] > 0.1  # the more its factor is known, the less they have in common


def test_a_kind_that_the_other_device_does_not_know_is_told_by_its_own_rows(prior):
    norms = [Norm(shape=(n, 8, 16, 16), function="batch") for n in (1, 2, 4, 8)]
    model = move_model([*rows(LAYERS[:4], 2.0), *rows(norms, 2.0)], HERE, "f", prior)
    wanted = Norm(shape=(3, 8, 16, 16), function="batch")
    assert predicted(model, wanted).device_s == pytest.approx(2.0 * seconds(task(wanted)), rel=0.3)
    assert not move_model(rows(LAYERS[:4], 2.0), HERE, "f", prior).predict([task(wanted)], HERE)


def test_the_card_says_what_it_was_moved_from(prior):
    card = move_model(rows(LAYERS[:4], 2.0), HERE, "f", prior).card
    assert (card.device, card.fingerprint, card.rows) == (HERE.slug, "f", 4)
    assert (card.prior, card.prior_fingerprint) == (DEVICE.slug, "0123456789abcdef")
    assert card.offsets[""] == pytest.approx(log(2), abs=0.3)
