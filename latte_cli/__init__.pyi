"""The public API for type checkers; at run time each name is imported when it is first asked for."""

from latte_cli.errors import LatteError as LatteError
from latte_cli.estimator import estimate as estimate
from latte_cli.network import load as load
from latte_cli.runtime import optimization_of as optimization_of
from latte_cli.runtime import optimize as optimize

__version__: str
