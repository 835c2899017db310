"""XGBoost: to predict by its library alone, to fit by its package, and its own files read without trusting them."""

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.util import find_spec
from math import nan
from pathlib import Path
from typing import Any, TypeAlias
from weakref import finalize

import numpy as np
import numpy.typing as npt

from latte_cli.backends.host import cores
from latte_cli.errors import LatteError

Predicted: TypeAlias = npt.NDArray[np.float32]

_BLOCK = 1 << 15  # chosen: rows that are made together; 18 MB of 140 columns


def xgboost_module() -> Any:
    """The module `xgboost`, in a process of the command line without scikit-learn; raises LatteError without it.

    XGBoost imports scikit-learn where it is installed, and scipy.stats and pandas with it: 1.3 s of 2, for classes that
    LATTE does not use. A process that imported LATTE as a library may use them, so there it is imported as always.
    """
    try:
        return _import_xgboost()
    except (ImportError, OSError, AttributeError, ValueError) as exc:  # the last two: `python -OO`, a library gone
        reason = " ".join(str(exc).split())[-120:]
        hint = "`latte doctor` says what it needs; it does not run under `python -OO`"
        raise LatteError(f"XGBoost cannot be imported: {reason}", hint=hint) from exc


def _import_xgboost() -> Any:
    if "xgboost" in sys.modules or "sklearn" in sys.modules or "latte_cli.cli" not in sys.modules:
        import xgboost
    else:
        sys.modules["sklearn"] = None  # type: ignore[assignment] # importing it raises ImportError, as if absent
        try:
            import xgboost
        finally:
            del sys.modules["sklearn"]
    return xgboost


def fitting_threads() -> int:
    """The threads to fit trees with: the CPUs that this process may use, fewer where OMP_NUM_THREADS says so."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores(), int(asked)) if asked.isdigit() and int(asked) else cores()


def quantile_matrix(
    block: Callable[[slice], npt.NDArray[np.float32]],
    types: Sequence[str],
    target: npt.NDArray[np.float64],
    counts: npt.NDArray[np.float64] | None = None,
) -> Any:
    """XGBoost's matrix in bins, made from one `block` of rows at a time, of which there are as many as of `target`.

    `types` are XGBoost's letters of the columns; `target` is what is predicted, `counts` how much each row counts.
    """
    xgboost = xgboost_module()
    iterator: Any = xgboost.DataIter  # the module is loaded late

    class Blocks(iterator):  # type: ignore[misc]
        start = 0

        def next(self, input_data: Callable[..., None]) -> bool:
            if self.start >= len(target):
                return False
            part = slice(self.start, min(self.start + _BLOCK, len(target)))
            weight = None if counts is None else counts[part]
            input_data(data=block(part), label=target[part], weight=weight, feature_types=list(types))
            self.start = part.stop
            return True

        def reset(self) -> None:
            self.start = 0

    return xgboost.QuantileDMatrix(Blocks(), enable_categorical=True, nthread=fitting_threads())


@lru_cache(maxsize=32)  # chosen: the trees of a few devices
def load_booster(content: bytes, features: int, outputs: int = 1) -> Any:
    """The booster that XGBoost wrote as `content`, which predicts so many `outputs` from so many `features`.

    Raises ValueError for any other one. XGBoost crashes on some bytes that it did not write, so they come from
    `artefacts`. The same object for the same arguments: it is to predict with, not to be trained further.
    """
    if not content:  # XGBoost ends the process
        raise ValueError("unreadable trees")
    library = _library()
    booster = _packaged_booster(content) if library is None else LoadedBooster(library, content)
    if booster.num_features() != features:
        raise ValueError("trees of other features")
    if booster.inplace_predict(np.zeros((1, features), dtype=np.float32)).size != outputs:
        raise ValueError("trees with other outputs")
    return booster


def _packaged_booster(content: bytes) -> Any:
    """The booster as XGBoost's package has it; raises ValueError for other bytes."""
    xgboost = xgboost_module()
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as exc:
        raise ValueError("unreadable trees") from exc
    return booster


# The library: what its header xgboost/c_api.h declares, the same since version 2.1

_FILES = {"linux": "libxgboost.so", "darwin": "libxgboost.dylib", "win32": "xgboost.dll"}  # in the wheels, below lib/
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "XGBoosterCreate": (ctypes.c_void_p, ctypes.c_uint64, ctypes.POINTER(ctypes.c_void_p)),
    "XGBoosterFree": (ctypes.c_void_p,),
    "XGBoosterLoadModelFromBuffer": (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64),
    "XGBoosterGetNumFeature": (ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64)),
    "XGBoosterGetAttr": (
        *(ctypes.c_void_p, ctypes.c_char_p),
        *(ctypes.POINTER(ctypes.c_char_p), ctypes.POINTER(ctypes.c_int)),
    ),
    "XGBoosterPredictFromDense": (
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p),
        ctypes.POINTER(ctypes.POINTER(ctypes.c_uint64)),
        *(ctypes.POINTER(ctypes.c_uint64), ctypes.POINTER(ctypes.POINTER(ctypes.c_float))),
    ),
}
_AS_VALUES = json.dumps(
    {
        **{"type": 0, "training": False, "iteration_begin": 0, "iteration_end": 0},  # all trees, no margins
        **{"missing": nan, "strict_shape": False, "cache_id": 0},
    }
).encode()
_FEW_ROWS = 2048  # chosen: one thread predicts so many in some 10 ms


class LoadedBooster:
    """Trees to predict with. They need the shared library, and nothing that XGBoost's package imports (scipy)."""

    def __init__(self, library: ctypes.CDLL, content: bytes) -> None:
        """Raises ValueError for bytes that are no booster."""
        self._library, self._content, self._handle = library, content, ctypes.c_void_p()
        self._call("XGBoosterCreate", None, 0, ctypes.byref(self._handle))
        finalize(self, library.XGBoosterFree, self._handle).atexit = False
        try:
            with _one_thread(library):
                self._call("XGBoosterLoadModelFromBuffer", self._handle, content, len(content))
        except RuntimeError as exc:
            raise ValueError("unreadable trees") from exc

    def num_features(self) -> int:
        """How many features a prediction is made from."""
        count = ctypes.c_uint64()
        self._call("XGBoosterGetNumFeature", self._handle, ctypes.byref(count))
        return count.value

    def attr(self, key: str) -> str | None:
        """An attribute that was stored with the trees; None for one that was not."""
        value, known = ctypes.c_char_p(), ctypes.c_int()
        self._call("XGBoosterGetAttr", self._handle, key.encode(), ctypes.byref(value), ctypes.byref(known))
        return value.value.decode(errors="replace") if known.value and value.value is not None else None

    def inplace_predict(self, data: npt.ArrayLike) -> Predicted:
        """The prediction of each row of `data`."""
        rows = np.ascontiguousarray(data, dtype=np.float32)
        shape, rank = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        values = ctypes.POINTER(ctypes.c_float)()
        with _one_thread(self._library, wanted=len(rows) <= _FEW_ROWS):
            self._call(
                *("XGBoosterPredictFromDense", self._handle, json.dumps(rows.__array_interface__).encode()),
                *(_AS_VALUES, None, ctypes.byref(shape), ctypes.byref(rank), ctypes.byref(values)),
            )
        found = np.empty(shape[: rank.value], dtype=np.float32)
        ctypes.memmove(found.ctypes.data, values, found.nbytes)  # the library's own are overwritten by its next ones
        return found

    def save_raw(self, raw_format: str) -> bytearray:
        """As XGBoost's package does it."""
        saved: bytearray = _packaged_booster(self._content).save_raw(raw_format=raw_format)
        return saved

    def get_score(self, importance_type: str) -> dict[str, float]:
        """As XGBoost's package does it."""
        scores: dict[str, float] = _packaged_booster(self._content).get_score(importance_type=importance_type)
        return scores

    def _call(self, name: str, *arguments: Any) -> None:
        if getattr(self._library, name)(*arguments):
            raise RuntimeError(self._library.XGBGetLastError().decode(errors="replace"))


@cache
def _library() -> ctypes.CDLL | None:
    """XGBoost's shared library, where its wheels have it; None where it is elsewhere, if anywhere."""
    try:
        spec = find_spec("xgboost")
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(next(iter(spec.submodule_search_locations))).absolute()
        library = ctypes.CDLL(str(folder / "lib" / _FILES[sys.platform]))
        for name, types in _FUNCTIONS.items():
            getattr(library, name).argtypes = types
        library.XGBGetLastError.restype = ctypes.c_char_p
    except (ImportError, OSError, AttributeError, KeyError, ValueError):
        return None  # the package itself says what is wrong, if it is
    return library


@contextmanager
def _one_thread(library: ctypes.CDLL, *, wanted: bool = True) -> Iterator[None]:
    """No second thread of OpenMP, if that is `wanted`: for little work they take more of the CPU than they save.

    They wait in a loop for the next work. Where OpenMP cannot be reached, it has its way.
    """
    most, limit = (getattr(library, name, None) for name in ("omp_get_max_threads", "omp_set_num_threads"))
    if not wanted or most is None or limit is None:
        yield
        return
    before = most()
    limit(1)
    try:
        yield
    finally:
        limit(before)
