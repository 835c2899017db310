"""cuDNN through its legacy convolution API, which names its algorithms, and its backend API, which numbers engines; one
binding for versions 8 and 9."""

from latte_cli.backends.native.cudnn.convolutions import ALGORITHMS as ALGORITHMS
from latte_cli.backends.native.cudnn.convolutions import Problem as Problem
from latte_cli.backends.native.cudnn.convolutions import Ranked as Ranked
from latte_cli.backends.native.cudnn.convolutions import algorithms as algorithms
from latte_cli.backends.native.cudnn.convolutions import problem as problem
from latte_cli.backends.native.cudnn.engines import EngineGraph as EngineGraph
from latte_cli.backends.native.cudnn.engines import EngineTarget as EngineTarget
from latte_cli.backends.native.cudnn.engines import ExecutionPlan as ExecutionPlan
from latte_cli.backends.native.cudnn.engines import graph as graph
from latte_cli.backends.native.cudnn.engines import properties as properties
from latte_cli.backends.native.cudnn.library import Library as Library
from latte_cli.backends.native.cudnn.library import open_library as open_library
