"""The models of the protocol: one for each operation of the served model, described by metadata and configuration.

Their names are encode, decode, reconstruct, sample and score, also below the name or the identity of the served model:
mnist/encode, mnist:0123456789ab/encode.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.api.kserve import operations
from app.api.kserve.operations import Call, Result
from app.api.kserve.parameters import (
    DecodeParameters,
    EncodeParameters,
    ImagesForm,
    ReconstructParameters,
    SampleParameters,
    ScoreParameters,
)
from app.api.kserve.schemas import ModelMetadata, TensorMetadata
from app.api.kserve.tensors import BYTES
from app.api.query import Query
from app.context import Operation
from app.errors import NotFound
from app.inference.loaded_model import LoadedModel
from app.settings import Settings
from app.validation import quoted
from model.interface import FixedSize, ModelSpec

PLATFORM = "vae"

VERSION = "1"
"""The only version of each model: a number, as Triton's clients expect. Its weights are known by the
identity of the served model, by which a name may be qualified."""

VARIABLE = -1


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the protocol: what it computes, its `input` tensor and its `outputs` for the served model.

    `outputs` get the parameters of a request, which may ask for more. `operation` is the one that its batches compute.
    """

    name: str
    operation: Operation
    parameters: type[Query]
    compute: Callable[[Call, Any], Awaitable[Result]]
    input: Callable[[ModelSpec], TensorMetadata]
    outputs: Callable[[LoadedModel, Any], list[TensorMetadata]]

    @property
    def is_batched(self) -> bool:
        """Whether the first dimension of the input is a number of items."""
        return self.input is not _number

    def configuration(self, name: str, served: LoadedModel, settings: Settings) -> dict[str, Any]:
        """Return the configuration as Triton writes it, with shapes without the number of items."""
        metadata = self.metadata(name, served)
        batch = settings.max_items if self.is_batched else 0
        optional = {} if self.is_batched else {"optional": True}
        return {
            "name": name,
            "platform": PLATFORM,
            "backend": PLATFORM,
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": batch,
            "input": [_configured(tensor, batch) | optional for tensor in metadata.inputs],
            "output": [_configured(tensor, batch) for tensor in metadata.outputs],
            "dynamic_batching": {"max_queue_delay_microseconds": int(1000 * settings.max_batch_delay_ms)},
        }

    def metadata(self, name: str, served: LoadedModel) -> ModelMetadata:
        """Return the metadata; `name` is the one that the client has asked for."""
        return ModelMetadata(
            name=name,
            versions=[VERSION],
            platform=PLATFORM,
            inputs=[self.input(served.spec)],
            outputs=self.outputs(served, self.parameters()),
        )


def find_model(name: str, spec: ModelSpec, version: str | None) -> Model:
    """Return the model of a name, perhaps below that of the served model; raises `NotFound`."""
    served, _, own = name.rpartition("/")
    if served not in ("", spec.name, spec.identity) or own not in MODELS:
        known = ", ".join(MODELS)
        raise NotFound(
            f"no model {quoted(name)}; expected {known}, or one of them below the served model: "
            f"{spec.name}/{next(iter(MODELS))}"
        )
    if version not in (None, VERSION):
        raise NotFound(f"no version {quoted(str(version))} of {quoted(name)}; expected {VERSION}, the only one")
    return MODELS[own]


def _configured(tensor: TensorMetadata, batch: int) -> dict[str, Any]:
    datatype = "STRING" if tensor.datatype == BYTES else tensor.datatype
    return {"name": tensor.name, "data_type": f"TYPE_{datatype}", "dims": tensor.shape[1 if batch else 0 :]}


def _images_of(spec: ModelSpec) -> list[int]:
    """Return the shape of images [N, H, W, C]."""
    sides = spec.sizes.image_size if isinstance(spec.sizes, FixedSize) else (VARIABLE, VARIABLE)
    return [VARIABLE, *sides, spec.channels]


def _latents_of(spec: ModelSpec) -> list[int]:
    """Return the shape of latents [N, *latent]."""
    rule = spec.sizes
    if isinstance(rule, FixedSize):
        return [VARIABLE, *rule.latent_shape]
    smallest, largest = (rule.latents_of(side, side) for side in (rule.minimum, rule.maximum))
    return [VARIABLE, *(side if side == other else VARIABLE for side, other in zip(smallest, largest, strict=True))]


def _images(spec: ModelSpec) -> TensorMetadata:
    return TensorMetadata(name="images", datatype="UINT8", shape=_images_of(spec))


def _latents(spec: ModelSpec) -> TensorMetadata:
    return TensorMetadata(name="latents", datatype="FP32", shape=_latents_of(spec))


def _number(spec: ModelSpec) -> TensorMetadata:  # noqa: ARG001
    return TensorMetadata(name="n", datatype="INT64", shape=[1])


def _posterior(served: LoadedModel, parameters: EncodeParameters) -> list[TensorMetadata]:
    _, *latent = shape = _latents_of(served.spec)
    shapes = {"mean": shape, **({"logvar": shape} if served.spec.has_variance else {})}
    if parameters.samples is not None:
        shapes["z"] = [VARIABLE, parameters.samples, *latent]
    return [TensorMetadata(name=name, datatype=parameters.datatype, shape=own) for name, own in shapes.items()]


def _computed_images(served: LoadedModel, parameters: ImagesForm) -> list[TensorMetadata]:
    if parameters.format == "array":
        return [_images(served.spec)]
    return [TensorMetadata(name="images", datatype=BYTES, shape=[VARIABLE])]


def _scores(served: LoadedModel, parameters: ScoreParameters) -> list[TensorMetadata]:
    spec = served.spec
    if spec.has_elbo:
        names = ["elbo", "reconstruction", "kl", "bits_per_dim"]
        names += ["log_likelihood"] * (parameters.samples is not None) + ["percentile"] * (served.reference is not None)
    else:
        names = ["squared_error", "psnr", *(["kl"] * spec.has_variance)]
    names += ["typicality"] * (served.typicality is not None)
    outputs = [TensorMetadata(name=name, datatype="FP32", shape=[VARIABLE]) for name in names]
    if parameters.alpha is not None:
        outputs.append(TensorMetadata(name="anomalous", datatype="UINT8", shape=[VARIABLE]))
    return outputs


_ALL: Sequence[Model] = (
    Model("encode", Operation.ENCODE, EncodeParameters, operations.encode, _images, _posterior),
    Model("decode", Operation.DECODE, DecodeParameters, operations.decode, _latents, _computed_images),
    Model(
        "reconstruct", Operation.RECONSTRUCT, ReconstructParameters, operations.reconstruct, _images, _computed_images
    ),
    Model("sample", Operation.DECODE, SampleParameters, operations.sample, _number, _computed_images),
    Model("score", Operation.SCORE, ScoreParameters, operations.score, _images, _scores),
)

MODELS = {model.name: model for model in _ALL}
"""The models by their names."""
