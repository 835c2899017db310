from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, concatenate_datasets

from latte_cli.errors import LatteError
from latte_cli.federated.data import Examples, Partition, load_examples, partitions, split_examples


def test_digits_are_images_from_minus_one_to_one():
    found = load_examples("digits", channels=1, image_size=8)
    assert (found.images.shape, found.images.dtype) == ((1797, 1, 8, 8), np.float32)
    assert (found.images.min(), found.images.max()) == (-1, 1)
    assert (len(found), found.labels.dtype) == (1797, np.int64)
    assert set(found.labels) == set(range(10))


def test_images_take_the_size_and_channels_that_the_network_has():
    small, large = (load_examples("mnist", channels=channels, image_size=size) for channels, size in ((1, 14), (3, 28)))
    assert small.images.shape == (5000, 1, 14, 14)
    assert large.images.shape == (5000, 3, 28, 28)
    np.testing.assert_array_equal(large.images[:, 0], large.images[:, 2])
    coarse = large.images[:, 0].reshape(5000, 14, 2, 14, 2).mean((2, 4))
    assert np.corrcoef(coarse.ravel(), small.images.ravel())[0, 1] > 0.97
    assert small.images[:, 0].mean() == pytest.approx(large.images[:, 0].mean(), abs=0.01)


def test_an_image_that_keeps_its_size_is_not_touched():
    same, larger = (load_examples("digits", channels=1, image_size=size) for size in (8, 16))
    np.testing.assert_allclose(same.images[0, 0, 0, :4], np.array([0, 0, 5, 13]) / 8 - 1, rtol=1e-6)
    flat = larger.images[0, 0]
    assert same.images[0].mean() == pytest.approx(flat.mean(), abs=0.05)


@pytest.mark.parametrize("partition", Partition)
def test_each_example_is_on_one_device(partition):
    labels = load_examples("digits", channels=1, image_size=8).labels
    clients = np.arange(1797) % 10
    found = partitions(labels, 10, partition=partition, seed=3, clients=clients)
    assert sorted(np.concatenate(found).tolist()) == list(range(1797))
    again = partitions(labels, 10, partition=partition, seed=3, clients=clients)
    other = partitions(labels, 10, partition=partition, seed=4, clients=clients)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(found, other, strict=True))


def test_partitions_are_as_skewed_as_asked():
    labels = load_examples("digits", channels=1, image_size=8).labels

    def most_common(partition, **choices):
        parts = partitions(labels, 10, partition=partition, seed=1, **choices)
        return np.mean([np.bincount(labels[each]).max() / len(each) for each in parts])

    skewed, mild = (most_common(Partition.DIRICHLET, alpha=alpha) for alpha in (0.1, 100.0))
    assert most_common(Partition.IID) < 0.2
    assert mild < 0.25 < skewed
    few = partitions(labels, 10, partition=Partition.PATHOLOGICAL, seed=1, classes_each=3)
    assert [len(set(labels[each])) for each in few] == [3] * 10


def test_partitions_that_cannot_be_are_refused():
    labels = np.repeat(np.arange(2), 10)
    with pytest.raises(LatteError, match="20 examples cannot be spread over 11 devices, with 2 at least") as error:
        partitions(labels, 11, partition=Partition.IID, seed=0)
    assert error.value.hint == "take at most 10 devices, or `digits`, which has 1,797 examples"
    with pytest.raises(LatteError, match="cannot be spread so"):
        partitions(labels, 4, partition=Partition.PATHOLOGICAL, seed=0, classes_each=3)
    with pytest.raises(LatteError, match="cannot be spread so"):
        partitions(labels, 9, partition=Partition.DIRICHLET, seed=0, alpha=0.01)


@pytest.mark.parametrize(
    ("examples", "devices", "larger"),
    [
        (20, 9, "`digits`, which has 1,797 examples"),
        (4000, 1000, "`mnist1d`, which has 20,000 examples"),
        (16000, 1000, "more data of your own: `data` may name a folder that `datasets` saved"),
    ],
)
def test_a_data_set_that_is_too_small_is_said_with_one_that_is_not(examples, devices, larger):
    labels = np.repeat(np.arange(2), examples // 2)
    with pytest.raises(LatteError, match=f"in each of ten draws a device had fewer than 2 of {examples:,}") as error:
        partitions(labels, devices, partition=Partition.DIRICHLET, seed=0, alpha=0.01)
    assert error.value.hint == f"take fewer devices, a larger `alpha`, or {larger}"


def test_natural_devices_have_one_client_each_as_far_as_there_are_devices():
    clients = np.array([7, 3, 3, 9, 7, 1, 3, 9])
    labels = np.zeros(8, np.int64)
    drawn = Counter()
    for seed in range(40):
        found = partitions(labels, 2, partition=Partition.NATURAL, seed=seed, clients=clients)
        assert [np.flatnonzero(clients == clients[each[0]]).tolist() for each in found] == [e.tolist() for e in found]
        drawn.update(int(clients[each[0]]) for each in found)
    assert set(drawn) == {3, 7, 9}  # the client 1 has but one example


def test_natural_partitions_without_enough_clients_are_refused():
    labels = np.zeros(6, np.int64)
    with pytest.raises(LatteError, match="3 devices cannot have a client each: 2 have at least 2 examples") as error:
        partitions(labels, 3, partition=Partition.NATURAL, seed=0, clients=np.array([1, 1, 2, 2, 2, 3]))
    assert error.value.hint == "take at most 2 devices, or `dirichlet`, which needs no clients"
    with pytest.raises(LatteError, match="does not say whose its examples are"):
        partitions(labels, 3, partition=Partition.NATURAL, seed=0)


def test_what_is_held_out_has_its_share_of_each_class():
    whole = load_examples("digits", channels=1, image_size=8)
    first, second = split_examples(whole, held_out=0.25, seed=2)
    counts = np.bincount(whole.labels)
    np.testing.assert_array_equal(np.bincount(second.labels), np.round(0.25 * counts))
    assert len(first) + len(second) == 1797
    rows = np.concatenate([first.images, second.images]).reshape(1797, -1)
    np.testing.assert_allclose(rows.sum(0), whole.images.reshape(1797, -1).sum(0), rtol=1e-3)
    with pytest.raises(LatteError, match="a share of 1 cannot be held out"):
        split_examples(whole, held_out=1, seed=2)


def saved(folder, images, labels, features=None, *, nested=False):
    table = Dataset.from_dict({"image": images, "label": labels}, features=features)
    (DatasetDict({"train": table}) if nested else table).save_to_disk(str(folder))
    return str(folder)


def test_a_folder_that_datasets_saved_is_read(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    labels = [0, 1, 2, 0, 1, 2]
    features = Features({"image": Image(), "label": ClassLabel(num_classes=3)})
    coloured = load_examples(
        saved(tmp_path / "a", list(pixels), labels, features, nested=True), channels=3, image_size=5
    )
    np.testing.assert_allclose(coloured.images, np.moveaxis(pixels, -1, 1) / 127.5 - 1, atol=1e-5)
    assert coloured.labels.tolist() == labels
    grey = load_examples(str(tmp_path / "a"), channels=1, image_size=5)
    np.testing.assert_allclose(grey.images[:, 0], coloured.images.mean(1), atol=1e-5)


def test_lists_of_numbers_are_images_too(tmp_path):
    pixels = np.random.default_rng(0).random((4, 3, 3)).astype(np.float32)
    found = load_examples(saved(tmp_path / "b", pixels.tolist(), [0, 1, 0, 1]), channels=1, image_size=3)
    np.testing.assert_allclose(found.images[:, 0], 2 * pixels - 1, atol=1e-6)


def test_a_folder_with_writers_gives_each_device_the_examples_of_one(tmp_path):
    """The columns of FEMNIST: 28x28 grey images, 62 characters, and the writer of each."""
    rng = np.random.default_rng(0)
    writers = rng.permutation(np.repeat([f"f{at:04}_{at % 50:02}" for at in range(30)], 40))
    images = rng.integers(0, 256, (1200, 28, 28), dtype=np.uint8)
    columns = {
        "image": list(images),
        "writer_id": writers.tolist(),
        "hsf_id": [0] * 1200,
        "character": rng.integers(0, 62, 1200).tolist(),
    }
    features = Features(
        {
            "image": Image(),
            "writer_id": Value("string"),
            "hsf_id": Value("int64"),
            "character": ClassLabel(num_classes=62),
        }
    )
    more = {**columns, "writer_id": ["f9999_00"] * 1200}
    table = concatenate_datasets([Dataset.from_dict(each, features=features) for each in (more, columns)])
    chosen = table.filter(lambda writer: writer != "f9999_00", input_columns="writer_id")  # as docs/federation/data.md
    chosen.save_to_disk(str(tmp_path / "femnist"))
    whole = load_examples(str(tmp_path / "femnist"), channels=1, image_size=28)
    np.testing.assert_allclose(whole.images[:, 0], images / 127.5 - 1, atol=1e-5)
    training, held_out = split_examples(whole, held_out=0.2, seed=1)
    assert len(training.clients) + len(held_out.clients) == 1200
    parts = partitions(training.labels, 12, partition=Partition.NATURAL, seed=1, clients=training.clients)
    by_image = {image.tobytes(): writer for image, writer in zip(whole.images, writers, strict=True)}
    owners = [{by_image[image.tobytes()] for image in training.images[each]} for each in parts]
    assert [len(each) for each in owners] == [1] * 12
    assert len(set.union(*owners)) == 12


def test_a_folder_without_clients_numbers_or_images_of_one_size_is_named(tmp_path):
    flat = np.zeros((4, 3, 3)).tolist()
    none = load_examples(saved(tmp_path / "none", flat, [0, 1, 0, 1]), channels=1, image_size=3)
    assert none.clients is None
    with pytest.raises(LatteError, match=r"the column `label` of .* does not hold numbers"):
        load_examples(saved(tmp_path / "words", flat, ["a", "b", "a", "b"]), channels=1, image_size=3)
    with pytest.raises(LatteError, match="have several sizes"):
        sizes = [np.zeros((size, size)).tolist() for size in (2, 3)]
        load_examples(saved(tmp_path / "sizes", sizes, [0, 1]), channels=1, image_size=3)
    with pytest.raises(LatteError, match="has no examples"):
        load_examples(saved(tmp_path / "empty", [], []), channels=1, image_size=3)


def test_data_that_is_not_there_or_no_images_is_named(tmp_path):
    with pytest.raises(LatteError, match="unknown data set `digit`") as error:
        load_examples("digit", channels=1, image_size=8)
    assert error.value.hint == "did you mean `digits`?"
    with pytest.raises(LatteError, match="is no saved data set"):
        load_examples(str(tmp_path), channels=1, image_size=8)
    table = Dataset.from_dict(
        {"text": ["a"], "label": [1]}, features=Features({"text": Value("string"), "label": Value("int64")})
    )
    table.save_to_disk(str(tmp_path / "texts"))
    with pytest.raises(LatteError, match="has no column `image`"):
        load_examples(str(tmp_path / "texts"), channels=1, image_size=8)


def test_taking_examples_keeps_images_with_their_labels():
    whole = Examples(images=np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1), labels=np.arange(6))
    found = whole.take(np.array([4, 1]))
    assert found.images.ravel().tolist() == found.labels.tolist() == [4, 1]
