"""Defaults of architecture and training options that follow from the images, each with its reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any, NamedTuple

from model.data.arrays import Images
from model.errors import OptionsError
from model.training.options import TrainingOptions

MAX_EPOCHS = 10**6

GREY_SHARE = 0.35
"""E[x (1 - x)] / (E[x] (1 - E[x])) below which grey images count as nearly binary; 0 for black and white alone.

MNIST has 0.17, the 8x8 digits of scikit-learn 0.34, photographs about 0.6.
"""

TINY_SIDE, SMALL_SIDE = 12, 32
"""Largest sides of images with networks of two resolutions, of stride 1 and 2."""

PATIENT_STEPS = 400
"""Least number of steps without improvement after which a run ends early."""

FEW_IMAGES = 300
"""Number of training images below which a latent has more places and fewer channels."""

LATENT_CHANNELS = 16
"""Channels of a latent that has a place in the image."""

LEAST_BATCH, LARGEST_BATCH = 16, 128
"""Bounds of the batch size."""

SAMPLED_IMAGES = 5000
"""Number of images from which the share of grey is measured."""


class Choice(NamedTuple):
    """A default: the name of the option, the value as the command line takes it, and the reason."""

    option: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """What the defaults follow from: shape (C, H, W) and number of training images, and how grey they are."""

    image_shape: tuple[int, ...]
    images: int
    grey_share: float

    @classmethod
    def of(cls, images: Images) -> "ImageStatistics":
        """Measure uint8 images [N, C, H, W]."""
        x = images[:: ceil(len(images) / SAMPLED_IMAGES)] / 255.0
        spread = x.mean() * (1 - x.mean())
        return cls(images.shape[1:], len(images), float((x * (1 - x)).mean() / spread) if spread else 1.0)

    @property
    def is_binary(self) -> bool:
        """Whether the images are grey and nearly black and white."""
        return self.image_shape[0] == 1 and self.grey_share < GREY_SHARE

    @property
    def side(self) -> int:
        """The larger of height and width."""
        return max(self.image_shape[1:])


def choose_architecture(images: ImageStatistics, *, with_networks: bool = True) -> list[Choice]:
    """Choose likelihood, latent and networks; without the networks a latent that fits any of them."""
    _, height, width = images.image_shape
    network = _network(images)
    values = {
        "stride": network.stride,
        "channels": _text(network.channels),
        "blocks": _text(network.blocks),
        "hidden": network.hidden,
        "latent": _text(network.latent),
    }
    if not with_networks:
        values = {"latent": str(_vector_size(images))}
    return [
        *_likelihood(images),
        *(Choice(option, value, f"images of {width}x{height} pixels") for option, value in values.items()),
    ]


def choose_precision(images: ImageStatistics, *, has_amx: bool) -> list[Choice]:
    """Choose the precision where another than the default is faster, on a CPU with or without tiles of bfloat16."""
    if not has_amx or images.side <= SMALL_SIDE:
        return []
    return [Choice("precision", "bfloat16", "faster on this CPU, for images of this size")]


def choose_data_options(images: int, *, has_test: bool, has_validation: bool) -> list[Choice]:
    """Choose how many of the images are held out."""
    test = 0.0 if has_test else 0.1
    kept = round(images * (1 - test))
    holdout = 0 if has_validation else min(1000, max(kept // 10, min(16, kept // 4)))
    return [
        Choice("test_share", test, "the data have a test split" if has_test else "the data have no test split"),
        Choice(
            "holdout",
            holdout,
            "the data have a validation split" if has_validation else "a tenth, at most 1000, for validation",
        ),
    ]


def choose_length(images: int, given: Mapping[str, Any]) -> list[Choice]:
    """Choose batch size and epochs for a number of training images; `given` has options that are decided."""
    batch = given.get("batch_size") or _power_of_two(images // 50, LEAST_BATCH, LARGEST_BATCH)
    steps = round(min(20_000, max(2000, 3000 * (images / 1000) ** 0.5)))
    epochs = max(1, min(MAX_EPOCHS, round(steps / steps_per_epoch(images, batch))))
    return [
        Choice("batch_size", batch, f"a fiftieth of {images} images, from {LEAST_BATCH} to {LARGEST_BATCH}"),
        Choice("epochs", epochs, f"about {steps} steps for {images} images"),
    ]


def choose_patience(epochs: int, steps: int, validation: int) -> list[Choice]:
    """Choose the epochs without improvement after which a run of so many epochs and steps in all ends early.

    None without images for validation.
    """
    if not validation:
        return []
    least = ceil(PATIENT_STEPS * epochs / steps)
    reason = f"a fifth of the epochs, at least 20 and {PATIENT_STEPS} steps"
    return [Choice("patience", max(20, epochs // 5, least), reason)]


def choose_schedules(epochs: int, steps: int) -> list[Choice]:
    """Choose warm-ups and averaging for a run of so many epochs and steps in all."""
    return [
        Choice("warmup", min(500, steps // 20), "a twentieth of the steps, at most 500"),
        Choice("kl_warmup", min(5.0, epochs / 10), "a tenth of the epochs, at most 5"),
        Choice("ema", round(max(0.9, min(0.999, 1 - 20 / steps)), 4), "an average over a twentieth of the steps"),
    ]


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return the number of batches of an epoch."""
    return ceil(images / batch_size)


def require_possible(
    images: ImageStatistics, likelihood: str, options: TrainingOptions, steps: int, validation: int
) -> None:
    """Raise `OptionsError` for options that cannot work with these images, `steps` in all and `validation` images."""
    if options.holdout >= images.images:
        raise OptionsError(f"holdout: expected fewer than the {images.images} training images, got {options.holdout}")
    if options.warmup > steps:
        raise OptionsError(f"warmup: expected at most the {steps} steps of the training, got {options.warmup}")
    if options.kl_warmup > options.epochs:
        raise OptionsError(
            f"kl_warmup: expected at most the {options.epochs} epochs of the training, got {options.kl_warmup:g}"
        )
    if likelihood == "bernoulli" and options.binarize == "dynamic" and images.image_shape[0] == 3:
        raise OptionsError(
            "likelihood: expected logistic, or binarize none, for colour images; bernoulli draws pixels black or white"
        )
    if options.patience and not validation:
        raise OptionsError("patience: expected images for validation; holdout is 0")


def _likelihood(images: ImageStatistics) -> list[Choice]:
    """Choose the likelihood, and the first weights: colours are learned late if signals fade from layer to layer."""
    if images.is_binary:
        return [Choice("likelihood", "bernoulli", "the images are nearly black and white")]
    reason = f"the images have {'colours' if images.image_shape[0] == 3 else 'grey levels'}"
    return [Choice("likelihood", "logistic-shared", reason), Choice("init", "data", reason)]


class _Network(NamedTuple):
    """Options of the networks."""

    stride: int
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    hidden: str
    latent: tuple[int, ...]


def _network(images: ImageStatistics) -> _Network:
    """Return networks for images of this size; the coarsest grid has 2 to 8 pixels a side up to 256.

    Larger images get a latent on that grid: it is learned in a tenth of the steps that linear layers between the grid
    and the latent need. Few images get a grid of twice the height and width, as they have more parts than wholes.
    """
    if images.side <= TINY_SIDE:
        return _Network(1, (32, 64), (1, 1), "256", (_vector_size(images),))
    if images.side <= SMALL_SIDE:
        return _Network(2, (32, 32), (1, 1), "450", (_vector_size(images),))
    deeper = max(0, (images.side - 1).bit_length() - 6)
    steps = deeper + (1 if images.images < FEW_IMAGES else 2)
    channels, blocks = (32, 64, *(128,) * steps), (0, *(1,) * steps, 2)
    _, height, width = images.image_shape
    grid = 2 ** len(channels)
    features = LATENT_CHANNELS if steps > deeper + 1 else LATENT_CHANNELS // 2
    return _Network(2, channels, blocks, "", (features, ceil(height / grid), ceil(width / grid)))


def _vector_size(images: ImageStatistics) -> int:
    values = prod(images.image_shape)
    return next((size for most, size in ((256, 16), (1024, 32), (4096, 64)) if values <= most), 128)


def _power_of_two(value: int, least: int, most: int) -> int:
    return min(most, max(least, 1 << max(0, value.bit_length() - 1)))


def _text(values: tuple[int, ...]) -> str:
    return ",".join(map(str, values))
