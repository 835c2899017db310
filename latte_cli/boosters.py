"""XGBoost: imported without what it does not need here, and its own files read without trusting them."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from latte_cli.backends.host import cores
from latte_cli.errors import LatteError

_BLOCK = 1 << 15  # chosen: rows that are made together; 17 MB of 130 columns


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
    rows: int,
    types: Sequence[str],
    like: Any = None,
    target: npt.NDArray[np.float64] | None = None,
) -> Any:
    """XGBoost's matrix of so many rows, in bins, made from one `block` of rows at a time.

    `types` are XGBoost's letters of the columns; `like` is the matrix whose bins are taken, `target` what is predicted.
    """
    xgboost = xgboost_module()

    class Blocks(xgboost.DataIter):  # type: ignore[misc, name-defined] # the module is loaded late
        start = 0

        def next(self, input_data: Callable[..., None]) -> bool:
            if self.start >= rows:
                return False
            part = slice(self.start, min(self.start + _BLOCK, rows))
            label = np.zeros(part.stop - part.start) if target is None else target[part]
            input_data(data=block(part), label=label, feature_types=list(types))
            self.start = part.stop
            return True

        def reset(self) -> None:
            self.start = 0

    return xgboost.QuantileDMatrix(Blocks(), ref=like, enable_categorical=True, nthread=fitting_threads())


@lru_cache(maxsize=32)  # chosen: the trees of a few devices
def load_booster(content: bytes, features: int, outputs: int = 1) -> Any:
    """The booster that XGBoost wrote as `content`, which predicts so many `outputs` from so many `features`.

    Raises ValueError for any other one. XGBoost crashes on some bytes that it did not write, so they come from
    `artefacts`. The same object for the same arguments: it is to predict with, not to be trained further.
    """
    xgboost = xgboost_module()
    booster = xgboost.Booster()
    try:
        booster.load_model(bytearray(content))
    except xgboost.core.XGBoostError as exc:
        raise ValueError("unreadable trees") from exc
    if booster.num_features() != features:
        raise ValueError("trees of other features")
    if booster.inplace_predict(np.zeros((1, features), dtype=np.float32)).size != outputs:
        raise ValueError("trees with other outputs")
    return booster
