"""oneDNN through its C API, which lists the implementations of a convolution; one binding for versions 2 and 3."""

from latte_cli.backends.native.onednn.convolutions import Problem as Problem
from latte_cli.backends.native.onednn.convolutions import problem as problem
from latte_cli.backends.native.onednn.execution import Execution as Execution
from latte_cli.backends.native.onednn.library import Library as Library
from latte_cli.backends.native.onednn.library import open_library as open_library
