"""A federation's device makes its own profile where it has none, and prices what its profile says now."""

from dataclasses import replace
from pathlib import Path

import made_rows
import pytest

from latte_cli.allocator import Pricer, Round, SubModel, catalogue, class_estimator
from latte_cli.errors import LatteError
from latte_cli.federated import device, models
from latte_cli.federated.settings import FederationSettings
from latte_cli.network import Network
from latte_cli.network.zoo import export
from latte_cli.store import Store, open_store

NODE = {"partition-id": 0, "num-partitions": 1, "threads": 1, "profile-budget": "1s"}


def test_a_device_without_a_profile_measures_the_model_in_a_process_of_its_own(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    slug = device._profile(store, NODE, FederationSettings(batch=2, widths=(1.0,)), export("lenet"))
    assert [each.slug for each in store.devices(own=True)] == [slug]


def test_a_profile_that_cannot_be_made_is_an_error_with_the_reason(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(LatteError, match="`latte profile` ended with code 1: error: `model` is not an ONNX model"):
        device._profile(store, NODE, FederationSettings(), b"no model")


# Prices of devices with the same profile

MODEL = export("lenet")
SETTINGS = FederationSettings(batch=8, momentum=0.0)
SLUG = made_rows.DEVICE.slug


@pytest.fixture
def priced(tmp_path: Path) -> tuple[Store, Network, tuple[SubModel, ...]]:
    """A store with rows of LeNet's sub-models on one device."""
    store, network = open_store(str(tmp_path / "store")), models.network_from(MODEL, batch=8)
    sub_models = catalogue(network, (1.0, 0.5))
    _measure(store, network, sub_models, 1.0)
    device._pricer.cache_clear()
    return store, network, sub_models


def _measure(store: Store, network: Network, sub_models: tuple[SubModel, ...], times: float) -> None:
    """Rows that are so many times as slow, and later."""
    layers = [layer for each in sub_models for layer in made_rows.step_layers(each.of(network))]
    made_rows.write(
        store,
        [
            made_rows.measurement(task, time_s=times * made_rows.seconds(task), measured_at=times)
            for task in made_rows.tasks(layers)
        ],
    )


def _node(store: Store, number: int, **more: object) -> dict[str, object]:
    return {"partition-id": number, "num-partitions": 9, "device": SLUG, "store": store.uri, **more}


def _afresh(store: Store, node: dict[str, object], sub_models: tuple[SubModel, ...], samples: int) -> tuple[Round, ...]:
    price = Pricer(
        lambda batch: models.network_from(MODEL, batch=batch), lambda each: class_estimator(open_store(store.uri), each)
    )
    return tuple(price(each, device.fleet_class(node, SETTINGS, samples)) for each in sub_models)


def test_devices_of_a_profile_share_estimates_and_have_prices_of_their_own(priced) -> None:
    store, _, sub_models = priced
    nodes = [_node(store, 0), _node(store, 1, up="1Mbit"), _node(store, 2, strategy="pytorch")]
    nodes += [_node(store, 3, memory="3MiB")]
    for number, node in enumerate([*nodes, *nodes]):
        found = device.rounds(node, SETTINGS, MODEL, sub_models, 100 + number)
        assert found == _afresh(store, node, sub_models, 100 + number)
    assert device._pricer.cache_info().misses == 1
    pricer = device._pricer(store.full_uri, MODEL, SLUG, device._rests_on(store, SLUG))
    assert len(pricer._estimators) == 3  # the rate of a device is none of its estimates' business


def test_a_profile_that_changes_is_priced_again(priced) -> None:
    store, network, sub_models = priced
    before = device.rounds(_node(store, 0), SETTINGS, MODEL, sub_models, 100)
    _measure(store, network, sub_models, 4.0)
    after = device.rounds(_node(store, 1), SETTINGS, MODEL, sub_models, 100)
    assert after == _afresh(store, _node(store, 1), sub_models, 100)
    assert after[0].step_s > 2 * before[0].step_s


def test_what_is_learned_of_rows_is_part_of_what_prices_rest_on(priced) -> None:
    store, _, _ = priced
    before = device._rests_on(store, SLUG)
    assert device._rests_on(store, SLUG) == before
    card = store.models_dir / "selector-x" / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    first = device._rests_on(store, SLUG)
    card.with_name("new.json").write_text("[]")
    card.with_name("new.json").replace(card)  # as whole files are written
    assert before != first != device._rests_on(store, SLUG)


def test_another_network_has_another_pricer(priced) -> None:
    store, _, sub_models = priced
    device.rounds(_node(store, 0), SETTINGS, MODEL, sub_models, 100)
    wider = replace(SETTINGS, batch=16)
    other = device.rounds(_node(store, 0), wider, MODEL, sub_models, 100)
    assert other[0].memory_bytes > device.rounds(_node(store, 0), SETTINGS, MODEL, sub_models, 100)[0].memory_bytes
