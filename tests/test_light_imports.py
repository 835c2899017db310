import subprocess
import sys

import pytest
from made_rows import DEVICE, profile, step_layers

from latte_cli.network import load
from latte_cli.network.zoo import export
from latte_cli.store import open_store

_HEAVY = {"torch", "sklearn", "pandas", "scipy", "xgboost", "jsonschema"}
_RUN = """
import sys
from latte_cli.cli import main
try:
    main()
finally:
    print("loaded:", *(name for name, module in sys.modules.items() if module), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "lenet.onnx"
    path.write_bytes(export("lenet"))
    return path


@pytest.fixture
def uri(tmp_path, model):
    store = open_store(str(tmp_path / "store"), shipped=False)
    profile(store, step_layers(load(model, batch_size=8)))
    return store.uri


def modules(*arguments):
    """The modules that a `latte` process ends with."""
    done = subprocess.run([sys.executable, "-c", _RUN, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.rpartition("loaded:")[2].split())


def loaded(*arguments):
    """The heavy packages that a `latte` process ends with."""
    return _HEAVY & {name.partition(".")[0] for name in modules(*arguments)}


def test_help_loads_nothing_heavy():
    assert loaded("--help") == loaded("estimate", "--help") == set()


def test_an_estimate_that_is_looked_up_loads_nothing_heavy(model, uri):
    options = ("--batch-size", 8, "--store", uri, "--device", DEVICE.slug)
    assert loaded("estimate", model, *options) == set()


def test_a_prediction_needs_neither_the_package_of_xgboost_nor_what_it_imports(model, uri):
    options = ("--batch-size", 64, "--store", uri, "--device", DEVICE.slug)
    loaded("estimate", model, *options)
    assert loaded("estimate", model, *options) == set()


def test_a_command_imports_no_other(model, uri):
    found = modules("estimate", model, "--batch-size", 8, "--store", uri, "--device", DEVICE.slug)
    assert "latte_cli.cli.estimate" in found
    assert not {f"latte_cli.cli.{name}" for name in ("allocate", "profile", "simulate", "store", "zoo")} & found


def test_a_device_of_a_federation_names_its_prices_without_torch():
    program = "import sys, latte_cli.federated.client; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_profile_leaves_torch_to_its_worker(model, tmp_path):
    options = ("--batch-size", 8, "--store", tmp_path / "store", "--budget", "40s", "--dry-run")
    assert "torch" not in loaded("profile", model, *options)
