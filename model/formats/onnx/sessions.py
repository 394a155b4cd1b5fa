"""Sessions of ONNX Runtime: a graph, opened to be computed."""

import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from model.files import CheckpointError
from model.formats.onnx.graph import Graph

FATAL_ONLY = 4
"""Log level of ONNX Runtime. All other failures are raised as well."""


class Session(Protocol):
    """A graph on a device, as a session of ONNX Runtime."""

    def run(self, outputs: Sequence[str] | None, inputs: dict[str, Any]) -> list[np.ndarray]:
        """Compute the outputs of these names from the inputs."""


OpenSession = Callable[[Graph], Session]
"""Opens a graph on a device. Raises `CheckpointError` for one that ONNX Runtime cannot compute."""


def onnxruntime() -> ModuleType:
    """Import ONNX Runtime without its telemetry."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at the import, which else begins to report machine and model
    import onnxruntime as module  # noqa: PLC0415

    return module  # type: ignore[no-any-return]  # it has no types


def open_session(graph: Graph, options: Any, providers: Sequence[Any], source: Any = None) -> Session:
    """Open a graph with options of ONNX Runtime, on the first of these providers.

    `source` is a path of the graph's content, where that is cheaper than the bytes. ONNX Runtime opens no other files:
    it gets the weights from memory, as they were checked.
    """
    if graph.weight_files:
        names, contents = [*graph.weight_files], [*graph.weight_files.values()]
        options.add_external_initializers_from_files_in_memory(names, contents, [*map(len, contents)])
    try:
        session: Session = onnxruntime().InferenceSession(
            source or graph.content,
            options,
            providers=providers,
            enable_fallback=0,  # a second attempt, on the CPU, which is announced on stdout
        )
    except Exception as failure:  # noqa: BLE001  # its errors have no base class of their own
        raise CheckpointError(f"{graph.path}: ONNX Runtime cannot open the graph: {reason(failure)}") from None
    return session


def open_on_cpu(graph: Graph) -> Session:
    """Open a graph on the CPU, with all its threads."""
    options = onnxruntime().SessionOptions()
    options.log_severity_level = FATAL_ONLY
    return open_session(graph, options, ["CPUExecutionProvider"])


def reason(failure: Exception) -> str:
    """Return the first line of an error of ONNX Runtime, without its code."""
    return (str(failure).strip().splitlines() or [type(failure).__name__])[0].rpartition(" : ")[2]
