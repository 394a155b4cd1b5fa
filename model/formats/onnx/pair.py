"""A pair of ONNX graphs, an encoder and a decoder, as an image model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import TypeVar

import torch
from torch import Tensor

from model.files import CheckpointError
from model.formats.onnx.config import ChannelOrder, DecoderOutput, EncoderOutput, Layout, PairConfig
from model.formats.onnx.flops import Work, count_work
from model.formats.onnx.graph import Graph
from model.formats.onnx.sessions import OpenSession, Session, open_on_cpu, reason
from model.formats.onnx.signature import batch_of, in_layout
from model.gaussian import DiagonalGaussian
from model.interface import DecodedImage, DeterministicCode, FixedSize, ImageLikelihood, ModelSpec, MultipleOfFactor
from model.interruption import check_interruption
from model.likelihoods import FAMILIES, Likelihood, LogProbabilities

Result = TypeVar("Result")

MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0
"""Bounds of the logarithm of a variance, those of diffusers: beyond them its exponential leaves float32."""

MIN_DISTANCE = 1e-7
"""Least distance of a mean from 0 and 1 in log p(x|z), one step of float32 below 1."""


Network = Callable[[Tensor], list[Tensor]]
"""Computes the outputs of an encoder or a decoder, float32 [B, ...] each, from float32 [B, ...]."""


class GraphNetwork:
    """One of the graphs in a session: tensors of float32 [B, ...] in channels-first order, on the CPU."""

    def __init__(self, graph: Graph, session: Session, layout: str) -> None:
        self._session = session
        self._input, self._outputs = graph.input, [value.name for value in graph.outputs]
        self._row_by_row = batch_of(graph.input) == 1
        self._channels_last = layout == Layout.NHWC
        self._dtype = getattr(torch, graph.input.dtype)

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Compute the outputs of the graph."""
        if self._row_by_row and len(x) > 1:
            rows = [self._compute(row[None]) for row in x]
            return [torch.cat(column) for column in zip(*rows, strict=True)]
        return self._compute(x)

    def _compute(self, x: Tensor) -> list[Tensor]:
        check_interruption()
        moved = x.movedim(1, -1) if self._channels_last and x.dim() == 4 else x
        array = moved.detach().to("cpu", self._dtype).contiguous().numpy()
        found = map(torch.from_numpy, self._session.run(self._outputs, {self._input.name: array}))
        return [(y.movedim(-1, 1) if self._channels_last and y.dim() == 4 else y).float() for y in found]


@dataclass(frozen=True, slots=True)
class MeanLikelihood:
    """Likelihood of a family of which the decoder gives the mean image, [..., C, H, W] in [0, 1]."""

    mean: Tensor
    family: type[Likelihood]
    scale: float

    @property
    def deviation(self) -> Tensor | None:
        """The standard deviation of each value, if the family has a scale."""
        return self._distribution.deviation

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x|z) in nats, [..., B], for x of [B, C, H, W] in [0, 1]."""
        return self._distribution.log_prob(x)

    def log_probabilities(self, x: Tensor) -> LogProbabilities:
        """Return log p(x|z), and the log-mass of the 8-bit levels nearest to x."""
        return self._distribution.log_probabilities(x)

    @property
    def _distribution(self) -> Likelihood:
        return self.family(torch.logit(self.mean, MIN_DISTANCE), self.scale)


class OpenedPair:
    """An image model of two graphs that are open on a device."""

    def __init__(self, spec: ModelSpec, config: PairConfig, encoder: Network, decoder: Network) -> None:
        self.spec = spec
        self.config = config
        self._encoder = encoder
        self._decoder = decoder

    def posterior(self, x: Tensor) -> DiagonalGaussian | DeterministicCode:
        """Encode x of [B, C, H, W] in [0, 1], with a mean of [B, *latent]."""
        outputs = self._encoder(self._to_pixel_range(x))
        if self.config.encoder_output == EncoderOutput.CODE:
            return DeterministicCode(outputs[0])
        mean, logvar = outputs[0].chunk(2, 1) if self.config.encoder_output == EncoderOutput.MOMENTS else outputs[:2]
        return DiagonalGaussian(mean, logvar.clamp(MIN_LOGVAR, MAX_LOGVAR))

    def likelihood(self, z: Tensor) -> ImageLikelihood:
        """Decode z of [..., *latent] as p(x|z)."""
        latent_dims = len(self.config.latent_shape)
        leading = z.shape[: z.dim() - latent_dims]
        raw = self._decoder(z.reshape(prod(leading), *z.shape[-latent_dims:]))[0]
        raw = raw.reshape(*leading, *raw.shape[1:])
        family = FAMILIES.get(self.config.likelihood or "")
        if family and self.config.decoder_output == DecoderOutput.LOGITS:
            return family(raw, self.config.scale)
        mean = self._from_pixel_range(raw)
        return MeanLikelihood(mean, family, self.config.scale) if family else DecodedImage(mean)

    def _to_pixel_range(self, x: Tensor) -> Tensor:
        low, high = self.config.pixel_range
        return self._reordered(x) * (high - low) + low

    def _from_pixel_range(self, x: Tensor) -> Tensor:
        low, high = self.config.pixel_range
        return ((self._reordered(x) - low) / (high - low)).clamp(0, 1)

    def _reordered(self, x: Tensor) -> Tensor:
        return x.flip(-3) if self.config.channel_order == ChannelOrder.BGR else x


class OnnxPair:
    """A checked pair of graphs. A runtime opens it on a device; until then the graphs are computed on the CPU."""

    def __init__(self, spec: ModelSpec, config: PairConfig, encoder: Graph, decoder: Graph) -> None:
        self.spec = spec
        self.config = config
        self.encoder = encoder
        self.decoder = decoder

    def open(self, open_session: OpenSession) -> OpenedPair:
        """Open both graphs, and check the shapes of an image and its latent. Raises `CheckpointError`."""
        encoder, decoder = (GraphNetwork(g, open_session(g), self.config.layout) for g in (self.encoder, self.decoder))
        opened = OpenedPair(self.spec, self.config, encoder, decoder)
        self._check_outputs(opened)
        return opened

    def work(self, spec: ModelSpec) -> tuple[Work, Work] | None:
        """Return the work to encode and to decode one image of the default size of `spec`, None if it is unknown."""
        shapes = ((self.encoder, spec.image_shape), (self.decoder, spec.latent_shape))
        encode, decode = (count_work(graph, in_layout(self.config, shape)) for graph, shape in shapes)
        return None if encode is None or decode is None else (encode, decode)

    def posterior(self, x: Tensor) -> DiagonalGaussian | DeterministicCode:
        """Encode x of [B, C, H, W] in [0, 1] on the CPU."""
        return self._on_cpu.posterior(x)

    def likelihood(self, z: Tensor) -> ImageLikelihood:
        """Decode z of [..., *latent] on the CPU."""
        return self._on_cpu.likelihood(z)

    @cached_property
    def _on_cpu(self) -> OpenedPair:
        return self.open(open_on_cpu)

    @torch.inference_mode()
    def _check_outputs(self, opened: OpenedPair) -> None:
        """Compute images of two small sizes, since a graph need not declare the shapes of its outputs."""
        for height, width in _small_sizes(self.spec.sizes):
            latent, image = self.spec.sizes.latents_of(height, width), (self.spec.channels, height, width)
            posterior = _computed(self.encoder, partial(opened.posterior, torch.zeros(2, *image)))
            found = [posterior.mean] if posterior.logvar is None else [posterior.mean, posterior.logvar]
            for tensor in found:
                _require_output(self.encoder, tensor, latent, f"images of {width} x {height} pixels")
            likelihood = _computed(self.decoder, partial(opened.likelihood, torch.zeros(2, *latent)))
            _require_output(self.decoder, likelihood.mean, image, f"latents of {latent}")


def _small_sizes(sizes: FixedSize | MultipleOfFactor) -> list[tuple[int, int]]:
    """Return the only size, or the smallest one and one of other sides."""
    if isinstance(sizes, FixedSize):
        return [sizes.image_size]
    least = sizes.minimum
    return [(least, least), sizes.fitted(least + sizes.factor, least + 3 * sizes.factor)]


def _computed(graph: Graph, compute: Callable[[], Result]) -> Result:
    """Return what `compute` does; raise `CheckpointError` where ONNX Runtime fails."""
    try:
        return compute()
    except CheckpointError:
        raise
    except Exception as failure:  # noqa: BLE001  # the errors of ONNX Runtime have no base class of their own
        raise CheckpointError(f"{graph.path}: ONNX Runtime cannot compute the graph: {reason(failure)}") from None


def _require_output(graph: Graph, tensor: Tensor, row: tuple[int, ...], given: str) -> None:
    if tensor.shape != (2, *row):
        raise CheckpointError(f"{graph.path}: expected {(2, *row)} for two {given}, got {tuple(tensor.shape)}")
    if not tensor.isfinite().all():
        raise CheckpointError(f"{graph.path}: expected finite numbers for two {given}")
