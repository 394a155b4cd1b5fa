"""JSON schemas of the Open Inference Protocol v2.

Source: `inference_rest.md` of kserve/open-inference-protocol; statistics, configuration and repository index as in
Triton's extensions. Unknown fields are ignored, since clients send fields of their own, such as `model_name`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas import FailFastList
from app.codecs.tensors import MAX_DIMENSIONS, MAX_SIDE

MAX_TENSORS = 8
"""Tensors of a request: no model has as many inputs or outputs."""

Parameters = dict[str, Any]
Dimension = Annotated[int, Field(strict=True, ge=1, le=MAX_SIDE)]


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(extra="ignore")


class RequestInput(Message):
    """An input tensor: `data` holds its elements, unless they follow the JSON as binary data."""

    name: str = Field(description="the name of an input of the model")
    shape: FailFastList[Dimension] = Field(max_length=MAX_DIMENSIONS, description="an array of the dimensions")
    datatype: str = Field(description="a data type such as FP32")
    parameters: Parameters | None = None
    data: Any = Field(None, description="elements in row-major order, flat or nested; absent if they are binary")


class RequestOutput(Message):
    """An output tensor that the client asks for."""

    name: str = Field(description="the name of an output of the model")
    parameters: Parameters | None = None


class InferenceRequest(Message):
    """A request to compute a model."""

    id: str | None = Field(None, max_length=1024)
    parameters: Parameters | None = None
    inputs: FailFastList[RequestInput] = Field(default_factory=list, max_length=MAX_TENSORS)
    outputs: FailFastList[RequestOutput] | None = Field(None, max_length=MAX_TENSORS)


class ResponseOutput(Message):
    """An output tensor; with `parameters.binary_data_size` its elements follow the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: Parameters | None = None
    data: list[Any] | None = None


class InferenceResponse(Message):
    """The result of a request."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[ResponseOutput]


class InferenceError(Message):
    """The response to a request that fails."""

    error: str


class ServerMetadata(Message):
    """The server: its name and version, and the extensions of the protocol that it speaks."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(Message):
    """Whether the server is alive."""

    live: bool


class ServerReady(Message):
    """Whether the server is ready for inference."""

    live: bool
    ready: bool


class ModelReady(Message):
    """Whether a model is ready for inference."""

    name: str
    ready: bool


class TensorMetadata(Message):
    """A tensor of a model; a dimension of variable size is -1."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Message):
    """The inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class IndexedModel(Message):
    """A model of the repository index."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class IndexRequest(Message):
    """Selects models of the repository index: all, or those that are ready."""

    ready: bool = False


class DurationStatistics(Message):
    """How often something took place, and the sum of its times in nanoseconds."""

    count: int
    ns: int


class Statistics(Message):
    """Figures of one model since the service was started, of all workers."""

    name: str
    version: str
    inference_count: int = Field(description="images or latents that were computed")
    execution_count: int = Field(description="batches that were computed")
    inference_stats: dict[str, DurationStatistics]
    batch_stats: list[Any]


class ModelStatistics(Message):
    """Figures of models."""

    model_stats: list[Statistics]


class ModelConfiguration(Message):
    """Configuration of a model, as Triton has it: shapes without the number of items."""

    name: str
    platform: str
    backend: str
    version_policy: dict[str, Any]
    max_batch_size: int
    input: list[dict[str, Any]]
    output: list[dict[str, Any]]
    dynamic_batching: dict[str, Any]
