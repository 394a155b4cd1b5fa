"""The VAE on its device: loaded once, warmed, fed in batches; the only module that knows a device.

An answer does not depend on who shared the batch. Rows whose draw comes from a seed are computed one by one, so that
the same seed gives the same bytes under any load.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from app.batching import Batcher
from app.calls import Call
from app.faults import diagnose, release
from app.metrics import Metrics
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.elbo import ELBO, Bounds, bounds
from model.gaussian import DiagonalGaussian
from model.vae import VAE


@dataclass(frozen=True, slots=True)
class Stack:
    """Columns of equal length, cut and joined together: pixels, latents, noise, whatever an operation takes."""

    columns: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, rows: slice) -> Self:
        return type(self)(tuple(column[rows] for column in self.columns))

    @classmethod
    def join(cls, stacks: Sequence["Stack"]) -> "Stack":
        """The rows of all stacks, in order."""
        if len(stacks) == 1:
            return stacks[0]
        return cls(tuple(torch.cat(columns) for columns in zip(*(s.columns for s in stacks), strict=True)))


@dataclass(frozen=True, slots=True)
class Work:
    """What to do with a batch. `exact` computes row by row; `weight` is the number of draws that each row takes."""

    operation: str
    exact: bool = False
    weight: int = 1


class Engine:
    """Encode, decode, reconstruct and score, for many callers at once."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings, metrics: Metrics) -> None:
        if settings.threads:
            torch.set_num_threads(settings.threads)
        torch.backends.cudnn.allow_tf32 = False  # its 10 bits would let an answer depend on the shape of its batch
        self.device = choose_device(settings.device)
        self.vae = checkpoint.vae.to(self.device)
        self.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        self.config = self.vae.config
        self.model = checkpoint.identity
        self.reference = checkpoint.reference
        self._always_exact = settings.batch_invariant
        self._largest = settings.max_batch_size
        self._metrics = metrics
        self._batcher = Batcher(
            self,
            metrics,
            max_batch_size=settings.max_batch_size,
            max_queue_items=settings.max_queue_items,
            max_delay=settings.max_batch_delay_ms / 1000,
        )
        self.start, self.close = self._batcher.start, self._batcher.close

    @property
    def alive(self) -> bool:
        """Whether the device thread is at work."""
        return self._batcher.alive

    @property
    def ready(self) -> bool:
        """Whether the weights are loaded, every batch shape is warmed and the device takes work."""
        return self._batcher.ready

    def device_memory(self) -> int:
        """Bytes that torch holds of the GPU's memory."""
        return torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0

    async def encode(self, pixels: np.ndarray, call: Call, *, exact: bool = False) -> DiagonalGaussian:
        """q(z|x) for uint8 pixels [N, C, H, W]: mean and logvar [N, *latent] on the CPU."""
        answer = await self._submit(Work("encode", exact), call, pixels)
        return DiagonalGaussian(*answer.columns)

    async def decode(self, latents: np.ndarray | Tensor, call: Call, *, exact: bool = False) -> np.ndarray:
        """The mean image of p(x|z) for float32 latents [N, *latent]: uint8 [N, C, H, W]."""
        return _only(await self._submit(Work("decode", exact), call, latents))

    async def reconstruct(self, pixels: np.ndarray, noise: Tensor | None, call: Call) -> np.ndarray:
        """The mean image, uint8 [N, C, H, W], at the posterior mean or at the draw of `noise` [N, *latent]."""
        at = torch.zeros((len(pixels), *self.config.latent_shape)) if noise is None else noise
        return _only(await self._submit(Work("reconstruct", exact=noise is not None), call, pixels, at))

    async def score(self, pixels: np.ndarray, noise: Tensor, call: Call) -> Bounds:
        """Both bounds on log p(x), [N] nats, by the draws of `noise` [N, K, *latent]."""
        answer = await self._submit(Work("score", exact=True, weight=noise.shape[1]), call, pixels, noise)
        total, reconstruction, kl, log_likelihood = answer.columns
        return Bounds(ELBO(total, reconstruction, kl), log_likelihood)

    async def _submit(self, work: Work, call: Call, *columns: np.ndarray | Tensor) -> Stack:
        rows = Stack(tuple(torch.as_tensor(column) for column in columns))
        return Stack.join(await self._batcher.submit(work, rows, call))

    # What follows runs on the device thread: the three verbs of `batching.Device`.

    def warm(self) -> None:
        """Run every operation at every batch shape."""
        pixels = torch.zeros((self._largest, *self.config.image_shape), dtype=torch.uint8)
        noise = torch.zeros((self._largest, *self.config.latent_shape))
        inputs = {"encode": (pixels,), "decode": (noise,), "reconstruct": (pixels, noise)}
        for operation, columns in inputs.items():
            for size in _shapes(self._largest):
                self.infer(Work(operation), Stack(columns)[:size])
        self.infer(Work("score", exact=True), Stack((pixels, noise[:, None]))[:1])

    def stack(self, work: Work, parts: Sequence[Stack]) -> Stack:
        """The parts as one batch, padded with zeros to a shape that was warmed."""
        batch = Stack.join(parts)
        if work.exact or self._always_exact:
            return batch
        missing = next(shape for shape in _shapes(self._largest) if shape >= len(batch)) - len(batch)
        self._metrics.padding.inc(missing)
        return Stack(tuple(_padded(column, missing) for column in batch.columns)) if missing else batch

    def infer(self, work: Work, batch: Stack) -> Stack:
        """The batch through the networks, there and back with one copy each way."""
        try:
            return self._through(work, batch)
        except Exception as failure:
            fault = diagnose(failure, self.device)
            if fault is None:
                raise
        release(self.device)  # by now the failure is gone, and the memory that its frames held
        raise fault

    @torch.inference_mode()
    def _through(self, work: Work, batch: Stack) -> Stack:
        operation = _OPERATIONS[work.operation]
        there = Stack(tuple(column.to(self.device, non_blocking=True) for column in batch.columns))
        if work.exact or self._always_exact:
            answers = [Stack(operation(self.vae, *there[row : row + 1].columns)) for row in range(len(there))]
        else:
            answers = [Stack(operation(self.vae, *there.columns))]
        return Stack(tuple(column.cpu() for column in Stack.join(answers).columns))


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the GPU where there is one. A `ValueError` says what is missing."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda:0" if available else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise ValueError(f"device: expected one of {available} CUDA devices here, got {name}")
    return device


def _encode(vae: VAE, pixels: Tensor) -> tuple[Tensor, ...]:
    q = vae.posterior(_unit(pixels))
    return q.mean, q.logvar


def _decode(vae: VAE, latents: Tensor) -> tuple[Tensor, ...]:
    return (_levels(vae.likelihood(latents).mean),)


def _reconstruct(vae: VAE, pixels: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    return _decode(vae, vae.posterior(_unit(pixels)).at(noise))


def _score(vae: VAE, pixels: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
    found = bounds(vae, _unit(pixels), noise.shape[1], noise=noise.transpose(0, 1))
    return (*found.elbo, found.log_likelihood)


_OPERATIONS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "encode": _encode,
    "decode": _decode,
    "reconstruct": _reconstruct,
    "score": _score,
}


def _unit(pixels: Tensor) -> Tensor:
    return (pixels.float() / 255).contiguous(memory_format=torch.channels_last)


def _levels(mean: Tensor) -> Tensor:
    return (mean * 255).round().to(torch.uint8)


def _padded(column: Tensor, missing: int) -> Tensor:
    return torch.cat([column, column.new_zeros((missing, *column.shape[1:]))])


def _shapes(largest: int) -> list[int]:
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return [*powers, largest]


def _only(answer: Stack) -> np.ndarray:
    (column,) = answer.columns
    pixels: np.ndarray = column.numpy()
    return pixels
