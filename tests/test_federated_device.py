"""A federation's device makes its own profile where it has none."""

from pathlib import Path

import pytest

from latte_cli.errors import LatteError
from latte_cli.federated import device
from latte_cli.federated.settings import FederationSettings
from latte_cli.network.zoo import export
from latte_cli.store import open_store

NODE = {"partition-id": 0, "num-partitions": 1, "threads": 1, "profile-budget": "1s"}


def test_a_device_without_a_profile_measures_the_model_in_a_process_of_its_own(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    slug = device._profile(store, NODE, FederationSettings(batch=2, widths=(1.0,)), export("lenet"))
    assert [each.slug for each in store.devices(own=True)] == [slug]


def test_a_profile_that_cannot_be_made_is_an_error_with_the_reason(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    with pytest.raises(LatteError, match="`latte profile` ended with code 1: error: `model` is not an ONNX model"):
        device._profile(store, NODE, FederationSettings(), b"no model")
