"""XGBoost's library predicts what its package does, bit by bit."""

import subprocess
import sys

import numpy as np
import pytest

from latte_cli import boosters
from latte_cli.store import shipped_models

FILES = sorted(shipped_models().glob("*-reference-*/*.ubj"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_library_predicts_what_the_package_does(path):
    content = path.read_bytes()
    packaged = boosters._packaged_booster(content)
    library = boosters._library()
    assert library is not None
    loaded = boosters.LoadedBooster(library, content)
    assert loaded.num_features() == packaged.num_features()
    generator = np.random.default_rng(0)
    for rows in (1, 7, boosters._FEW_ROWS + 1):
        data = generator.integers(0, 12, (rows, packaged.num_features())).astype(np.float32)
        data[generator.random(data.shape) < 0.2] = np.nan
        predicted = loaded.inplace_predict(data)
        np.testing.assert_array_equal(predicted, packaged.inplace_predict(data))
        assert predicted.shape == packaged.inplace_predict(data).shape
    import xgboost

    plain = data if path.parent.name.startswith("selector") else None
    if plain is None:  # as time models predicted before
        np.testing.assert_array_equal(predicted, packaged.predict(xgboost.DMatrix(data)))
    assert loaded.save_raw("ubj") == packaged.save_raw("ubj")
    assert loaded.get_score("total_gain") == packaged.get_score(importance_type="total_gain")


def test_what_is_no_booster_is_refused_without_the_package():
    for content in (b"{}", b"x" * 100):
        with pytest.raises(ValueError, match="unreadable trees"):
            boosters.LoadedBooster(boosters._library(), content)


def test_an_empty_file_is_refused_before_xgboost_ends_the_process_for_it():
    with pytest.raises(ValueError, match="unreadable trees"):
        boosters.load_booster(b"", 1)


def test_small_predictions_leave_the_threads_of_openmp_as_they_were():
    library = boosters._library()
    before = library.omp_get_max_threads()
    booster = boosters.LoadedBooster(library, FILES[0].read_bytes())
    booster.inplace_predict(np.zeros((1, booster.num_features())))
    assert library.omp_get_max_threads() == before
    with boosters._one_thread(library):
        assert library.omp_get_max_threads() == 1


def test_without_the_library_the_package_predicts():
    code = (
        "import sys, xgboost; from pathlib import Path; from latte_cli import boosters; boosters._FILES.clear();"
        "found = boosters.load_booster(Path(sys.argv[1]).read_bytes(), int(sys.argv[2]));"
        "assert isinstance(found, xgboost.Booster)"
    )
    path = next(path for path in FILES if path.name.startswith("products-0"))
    features = boosters._packaged_booster(path.read_bytes()).num_features()
    subprocess.run([sys.executable, "-c", code, str(path), str(features)], check=True)
