"""Gradient ascent on a bound (Kingma and Welling 2014, algorithm 1), with Adam and an average of the weights.

    L(x) = -objective(x),   by default the ELBO: E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))

The loss is the one minus sign of the repository: everywhere else higher is better.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from math import isfinite, log
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Checkpoint
from model.config import VAEConfig
from model.data.arrays import DataError, Images, digest
from model.device import autocast
from model.elbo import elbo
from model.pixels import to_pixels
from model.training.objectives import OBJECTIVES
from model.training.options import TrainingOptions
from model.training.weight_norm import normalise, plain_weights, standardise
from model.vae import VAE


class TrainingError(ValueError):
    """A training that cannot go on; the message says where it stopped and what to try."""


class ElboMeans(NamedTuple):
    """The ELBO and its two terms, nats per image."""

    elbo: float
    reconstruction: float
    kl: float


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One epoch: means over its training batches in nats, the ELBO of the averaged weights on the held-out images."""

    epoch: int
    elbo: float
    reconstruction: float
    kl: float
    validation: float | None
    learning_rate: float
    images_per_second: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an epoch is after a step: means so far, in nats."""

    epoch: int
    step: int
    steps: int
    elbo: float
    reconstruction: float
    kl: float
    images_per_second: float


NORMALISE_ON = 512
"""The images by which weight normalisation takes its first values."""

Watch = Callable[[Progress], None]


def new_vae(config: VAEConfig, seed: int) -> VAE:
    """A VAE with the initial weights that `seed` leads to; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VAE(config)


def start_at_mean(vae: VAE, images: Images) -> None:
    """Let the untrained decoder answer the mean training pixel: every family's mean is the sigmoid of its location."""
    share = min(max(float(images.mean()) / 255, 1e-3), 1 - 1e-3)
    family = vae.decoder.family
    bias = [weight for name, weight in vae.decoder.named_parameters() if name.endswith("bias")][-1]
    with torch.no_grad():
        bias.view(family.params_per_channel, -1)[0] = log(share / (1 - share))


class Training:
    """A training under way: `vae` has the raw weights, `average` their moving average, which is what is kept.

    `images` are uint8 [N, C, H, W]; they stay on the device as such and are drawn anew from their grey levels, in a new
    order, at each epoch. Everything random comes from `generator`, so that equal states go on alike. `start` is a
    trained model of the same config to go on from.
    """

    def __init__(
        self,
        config: VAEConfig,
        images: Images,
        options: TrainingOptions,
        device: torch.device | str = "cpu",
        start: Checkpoint | None = None,
    ) -> None:
        if not len(images):
            raise DataError("images: expected some to train on, got none")
        if len(images) <= options.holdout:
            raise DataError(f"holdout: expected fewer than the {len(images)} training images, got {options.holdout}")
        torch.backends.cudnn.deterministic = True  # else what is resumed on a GPU does not go on bit for bit
        self.options = options
        self.data = digest(images)
        self.start = start.digest if start else None
        self.records: list[EpochRecord] = []
        self.step = 0
        order = np.random.default_rng(options.seed).permutation(len(images))
        self.heldout = torch.tensor(images[np.sort(order[: options.holdout])], device=device)
        self.images = torch.tensor(images[np.sort(order[options.holdout :])], device=device)
        self.steps_per_epoch = -(-len(self.images) // options.batch_size)
        vae = new_vae(config, options.seed)
        if start:
            vae.load_state_dict(start.vae.state_dict())
        else:
            start_at_mean(vae, images)
        self.vae = vae.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        self.average = deepcopy(self.vae).requires_grad_(False)
        self.generator = torch.Generator(device).manual_seed(options.seed)
        if options.weight_norm:
            if not start:
                standardise(self.vae, self._batch(self.images[:NORMALISE_ON]), self.generator)
            normalise(self.vae, self.generator)
            self._follow(share=1.0)
        self.optimizer = torch.optim.Adam(self.vae.parameters(), lr=options.learning_rate, fused=True)

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.records)

    def epochs(self, watch: Watch | None = None) -> Iterator[EpochRecord]:
        """The epochs that are left, one record at a time; `watch` is told of each step."""
        while self.epoch < self.options.epochs:
            self.records.append(self._epoch(watch))
            yield self.records[-1]

    def _epoch(self, watch: Watch | None) -> EpochRecord:
        start, seen = perf_counter(), 0
        sums = torch.zeros(3, dtype=torch.float64, device=self.images.device)
        order = torch.randperm(len(self.images), generator=self.generator, device=self.images.device)
        for number, rows in enumerate(torch.split(order, self.options.batch_size), start=1):
            sums += self._step(self._batch(self.images[rows]))
            seen += len(rows)
            if watch:
                speed = seen / (perf_counter() - start)
                watch(Progress(self.epoch + 1, number, self.steps_per_epoch, *_means(sums, seen), speed))
        means = _means(sums, seen)
        self._require_finite("ELBO", means.elbo)
        rate, seconds = self.optimizer.param_groups[0]["lr"], perf_counter() - start
        validation = self._validation()
        self._require_finite("ELBO of the held-out images", validation or 0.0)
        return EpochRecord(self.epoch + 1, *means, validation, rate, seen / seconds, seconds)

    def _require_finite(self, name: str, bound: float) -> None:
        if not isfinite(bound):
            raise TrainingError(f"epoch {self.epoch + 1}: the {name} is {bound}; try a lower learning rate")

    def _step(self, x: Tensor) -> Tensor:
        rate = self.options.rate(self.step, self.options.epochs * self.steps_per_epoch)
        self.optimizer.param_groups[0]["lr"] = rate
        noise = self._noise(self.options.samples, len(x), self.generator)
        beta = self.options.kl_weight(self.step / self.steps_per_epoch)
        with autocast(self.options.precision, x.device):
            ascent = OBJECTIVES[self.options.objective](self.vae, x, noise, beta)
        loss = -ascent.objective.mean()
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        if self.options.clip:
            torch.nn.utils.clip_grad_norm_(self.vae.parameters(), self.options.clip)
        self.optimizer.step()
        self._follow(share=1 - self.options.memory(self.step))
        self.step += 1
        return torch.stack([term.detach().double().sum() for term in ascent.elbo])

    @torch.no_grad()
    def _follow(self, share: float) -> None:
        weights = plain_weights(self.vae)
        for name, average in self.average.named_parameters():
            average.lerp_(weights[name], share)

    @torch.inference_mode()
    def _validation(self) -> float | None:
        if not len(self.heldout):
            return None
        # The same binarisation and the same noise at each epoch, so that epochs can be compared.
        generator = torch.Generator(self.heldout.device).manual_seed(self.options.seed)
        total = 0.0
        for levels in torch.split(self.heldout, self.options.batch_size):
            x = self._pixels(levels, generator)
            with autocast(self.options.precision, x.device):
                total += elbo(self.average, x, noise=self._noise(1, len(x), generator)).total.double().sum().item()
        return total / len(self.heldout)

    def _batch(self, levels: Tensor) -> Tensor:
        return self._pixels(levels, self.generator).contiguous(memory_format=torch.channels_last)

    def _pixels(self, levels: Tensor, generator: torch.Generator) -> Tensor:
        return to_pixels(levels, self.options.binarize, generator)

    def _noise(self, samples: int, count: int, generator: torch.Generator) -> Tensor:
        shape = (samples, count, *self.vae.config.latent_shape)
        return torch.randn(shape, generator=generator, device=generator.device)


def _means(sums: Tensor, count: int) -> ElboMeans:
    return ElboMeans(*(sums / count).tolist())
