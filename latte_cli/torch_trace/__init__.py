"""Traces of torch.profiler as measurements: the calls of training steps become rows of a network's layers."""

from latte_cli.torch_trace.filing import TraceImport, TraceRequest, import_trace

__all__ = ["TraceImport", "TraceRequest", "import_trace"]
