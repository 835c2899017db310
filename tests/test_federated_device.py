"""A federation's device makes its own profile where it has none, and prices what its profile says now."""

import logging
from dataclasses import replace
from pathlib import Path

import made_rows
import pytest

from latte_cli.allocator import Pricer, Round, SubModel, catalogue, class_estimator
from latte_cli.errors import LatteError
from latte_cli.federated import device, messages, models
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
    with pytest.raises(
        LatteError, match=r"latte profile ended with code 1: error: cannot read `.*model\.onnx`: it is a text"
    ):
        device._profile(store, NODE, FederationSettings(), b"no model")


# A rough profile, in some seconds


def test_a_device_without_a_profile_calibrates_itself_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, node = open_store(str(tmp_path / "store")), {"partition-id": 0, "threads": 1, "calibration": "1ms"}
    caplog.set_level(logging.INFO, logger="flwr")
    logging.getLogger("flwr").addHandler(caplog.handler)
    try:
        settings = FederationSettings(batch=2, momentum=0.0)
        sub_models = catalogue(models.network_from(export("lenet"), batch=2), (1.0, 0.5))
        rounds = device.rounds(node | {"store": store.uri}, settings, export("lenet"), sub_models, 20)
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    said = "\n".join(each.getMessage() for each in caplog.records)
    assert "there is no profile of this machine: measuring it for 0.001 s" in said
    (own,) = store.devices(own=True)
    assert f" of `{own.slug}` in " in said
    assert all(0 < each.low_s < each.round_s < each.high_s and each.device == own.slug for each in rounds)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"calibration": "0s"}, "there is no profile of this machine"), ({"device": "no-such-device"}, "unknown device")],
)
def test_nothing_is_measured_where_that_is_ruled_out_or_another_device_is_named(
    tmp_path: Path, more: dict[str, str], said: str
) -> None:
    store = open_store(str(tmp_path / "store"))
    node = {"partition-id": 0, "store": store.uri, **more}
    with pytest.raises(LatteError, match=said):
        device.rounds(node, FederationSettings(), export("lenet"), [], 20)
    assert not store.devices(own=True)


def test_a_device_may_be_named_by_its_data_sheet(tmp_path: Path) -> None:
    """Its prices say so, and the server hears it."""
    sub_models = catalogue(models.network_from(MODEL, batch=8), (1.0, 0.5))
    node = {"partition-id": 0, "store": str(tmp_path / "store"), "device": "raspberry-pi-5"}
    rounds = device.rounds(node, SETTINGS, MODEL, sub_models, 80)
    assert [each.sheet_share for each in rounds] == [1.0, 1.0]
    prices = device.DevicePrices(name="pi-0", number=0, device="raspberry-pi-5", examples=80, rounds=rounds)
    heard = messages.prices_in(messages.prices_record(prices), sub_models)
    assert [each.sheet_share for each in heard.rounds] == [1.0, 1.0]
    record = messages.prices_record(prices)
    record["sheet-shares"] = [0.5, 2.0]
    with pytest.raises(LatteError, match="that is no share"):
        messages.prices_in(record, sub_models)
    del record["sheet-shares"]
    assert [each.sheet_share for each in messages.prices_in(record, sub_models).rounds] == [0.0, 0.0]


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
    assert len(pricer._estimators) == 3  # the rate of a device is not one of its estimates' business


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
