"""XGBoost: imported without what it does not need here, and its own files read without trusting them."""

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from latte_cli.errors import LatteError


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
