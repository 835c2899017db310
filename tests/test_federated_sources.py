import json
import random
import re
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from blocks import blocks, run

from latte_cli.federated.data import Partition, load_examples, partitions, split_examples
from latte_cli.federated.sources import CLIENT_COLUMNS, SOURCES, mnist1d

PAGE = (Path(__file__).parents[1] / "docs" / "federation" / "data.md").read_text("utf-8")
MARKED = [
    "downloads from Hugging Face",
    "needs a SuperLink",
    "needs aeon, in a separate environment",
]


def test_sources_have_the_examples_and_clients_that_they_say():
    for name, source in SOURCES.items():
        found = load_examples(name, channels=1, image_size=8)
        assert (len(found), found.images.shape[1:]) == (source.examples, (1, 8, 8)), name
        assert (0 if found.clients is None else len(set(found.clients))) == source.clients, name
        assert found.labels.min() == 0 and len(set(found.labels)) == found.labels.max() + 1, name
        assert -1.000001 <= found.images.min() < found.images.max() <= 1.000001, name


def test_windows_of_a_watch_are_sensors_by_time_and_do_not_overlap():
    found = SOURCES["watch"].read()
    (pixels,) = found.parts
    assert pixels.shape == (2369, 1, 6, 100)
    assert len(np.unique(pixels.reshape(2369, -1), axis=0)) == 2369
    acceleration = (pixels[:, 0, :3] - 0.5) * 4
    assert np.median(np.linalg.norm(acceleration, axis=1)) == pytest.approx(1, abs=0.1)  # gravity, in g
    assert {len(set(found.labels[found.clients == client])) for client in range(20)} == {7}


def test_each_wearer_of_the_watch_is_a_device():
    training, _ = split_examples(load_examples("watch", channels=1, image_size=8), held_out=0.2, seed=0)
    parts = partitions(training.labels, 20, partition=Partition.NATURAL, seed=0, clients=training.clients)
    assert [len(set(training.clients[each])) for each in parts] == [1] * 20
    assert sum(map(len, parts)) == len(training)


def test_a_thousand_devices_share_the_series_of_mnist1d():
    labels = np.repeat(np.arange(10), 1600)
    assert SOURCES["mnist1d"].examples * 0.8 == len(labels)
    parts = partitions(labels, 1000, partition=Partition.DIRICHLET, seed=1, alpha=0.5)
    assert min(map(len, parts)) >= 2


def test_series_are_made_once_and_alike_whatever_is_in_the_cache():
    state, own = np.random.get_state()[1].tolist(), random.getstate()
    first = mnist1d(200)
    assert (np.random.get_state()[1].tolist(), random.getstate()) == (state, own)
    (path,) = platformdirs.user_cache_path("latte").glob("mnist1d-*-200.npy")
    table = np.load(path)
    np.save(path, np.roll(table, 1, axis=0))
    read = mnist1d(200)
    np.testing.assert_array_equal(read.labels, np.roll(first.labels, 1))
    for content in (b"", path.read_bytes()[:300], b"no array"):
        path.write_bytes(content)
        again = mnist1d(200)
        np.testing.assert_array_equal(again.parts[0], first.parts[0])
        np.testing.assert_array_equal(again.labels, first.labels)


def test_series_are_made_where_nothing_can_be_kept(tmp_path, monkeypatch):
    first = mnist1d(100)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    np.testing.assert_array_equal(mnist1d(100).parts[0], first.parts[0])


def test_a_picture_of_a_series_has_all_of_its_samples():
    found = mnist1d(100)
    (pixels,) = found.parts
    assert pixels.shape == (100, 1, 14, 14)
    np.testing.assert_array_equal(pixels[:, 0, 1:, :-2], pixels[:, 0, :-1, 2:])
    series = np.load(next(platformdirs.user_cache_path("latte").glob("mnist1d-*-100.npy")))[:, :-1]
    ends = np.concatenate([pixels[:, 0, 0], pixels[:, 0, 1:, -2:].reshape(100, -1)], axis=1)
    np.testing.assert_allclose(ends, np.clip(series / 4, -1, 1) / 2 + 0.5, atol=1e-6)


def test_the_page_names_every_source_and_column():
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| \d+ \| \d* ?\|$", PAGE, re.MULTILINE))
    assert rows == {name: f"{source.examples:,}" for name, source in SOURCES.items()}
    (clients,) = re.findall(r"^\| client \| (.*?) \|", PAGE, re.MULTILINE)
    assert tuple(re.findall(r"`(\w+)`", clients)) == CLIENT_COLUMNS


def test_the_page_saves_series_and_federates_them(tmp_path):
    found = [block for block in blocks(PAGE) if block.language in ("sh", "python")]
    assert [block.reason for block in found if block.reason] == MARKED
    for block in found:
        if not block.reason:
            done = run(block, tmp_path)
            assert done.returncode == 0, done.stderr
    rounds = json.loads((tmp_path / "result" / "rounds.json").read_text())["rounds"]
    assert [len(each["trained"]) for each in rounds] == [6] * 4
    whole = load_examples(str(tmp_path / "waves"), channels=1, image_size=8)
    assert (whole.images.shape, len(set(whole.clients))) == ((300, 1, 8, 8), 6)
