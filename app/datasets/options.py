"""Options of the commands on whole data sets, and what is recorded of them beside the latents."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from app.codecs.images import Fit
from app.codecs.lossy import DEFAULT_QUALITY
from app.inference.image_sizes import Size
from app.settings import Settings, read_settings
from model.errors import OptionsError
from model.interface import FixedSize, ModelSpec
from model.validation import require

StoredType = Literal["float32", "float16", "bfloat16"]
ImageFormat = Literal["png", "jpeg", "webp"]

FORMAT = 1
"""Version of the layout of shards and index."""

MAX_SAMPLES = 4096
MAX_SEED = 2**63 - 1
MAX_THREADS = 1024
MAX_BATCH_SIZE = 4096
MAX_SHARD_SIZE = 10**9


@dataclass(frozen=True, slots=True)
class Hardware:
    """Where batches are computed. Names and values are those of the settings; their variables are the defaults.

    `device` may name several, such as `cuda:0,cuda:1`: each is used by a process of its own. `threads` are those of a
    process that read, decode, and on a CPU compute; 0 for all cores. `batch_size` is 0 for a number by the size of the
    images.
    """

    device: str = ""
    precision: str = ""
    threads: int = 0
    batch_size: int = 0

    @property
    def devices(self) -> Sequence[str]:
        """The names of the devices."""
        return [name.strip() for name in self.device.split(",")]

    def __post_init__(self) -> None:
        _require_between("threads", self.threads, 0, MAX_THREADS)
        _require_between("batch_size", self.batch_size, 0, MAX_BATCH_SIZE)
        for device in self.devices:
            self.settings(device)

    @property
    def only_device(self) -> str:
        """The name of the device. Raises `UserError` for several."""
        require(OptionsError, "device", len(self.devices) == 1, "one device", self.device)
        return self.devices[0]

    def settings(self, device: str, threads: int = 0) -> Settings:
        """Return the settings of the service for one of the devices.

        Batches are invariant, so that latents do not depend on the images beside them.
        """
        given = {"device": device, "precision": self.precision, "threads": threads, "max_batch_size": self.batch_size}
        return read_settings({"batch_invariant": True} | {name: value for name, value in given.items() if value})


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """Options of `encode_dataset`.

    `fit` is how an image is fitted to its size, as in the parameter of the service. `buckets` are the sizes (H, W) of
    images of a model of many sizes, each image is fitted to the nearest; without any to its own size. `samples` draws
    from the posterior are stored for each image, by seeds that follow from `seed` and its id. `scaled` stores latents
    in the units of the diffusion model. A shard covers `shard_size` images, 0 for a number by the size of a latent.
    `verify` finds changed images by content, otherwise by size and time. `retry` tries unreadable images again, and
    `strict` stops at the first one.
    """

    fit: Fit = "resize"
    buckets: Sequence[Size] = ()
    samples: int = 0
    seed: int = 0
    dtype: StoredType = "float32"
    scaled: bool = False
    shard_size: int = 0
    verify: bool = False
    retry: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        _require_one_of("fit", self.fit, Fit)
        _require_one_of("dtype", self.dtype, StoredType)
        _require_between("samples", self.samples, 0, MAX_SAMPLES)
        _require_between("seed", self.seed, 0, MAX_SEED)
        _require_between("shard_size", self.shard_size, 0, MAX_SHARD_SIZE)

    def recipe(self, spec: ModelSpec, precision: str) -> dict[str, Any]:
        """Return what determines the latents of an image. Raises `UserError` for what the model cannot do."""
        if self.samples and not spec.has_variance:
            raise OptionsError(f"samples: {spec.identity} has a deterministic encoder, there is nothing to draw from")
        rule = spec.sizes
        return {
            "format": FORMAT,
            "model": spec.identity,
            "digest": spec.digest,
            "precision": precision,
            "channels": spec.channels,
            "sizes": [list(rule.image_size)] if isinstance(rule, FixedSize) else [list(size) for size in self.buckets],
            "fit": self.fit,
            "samples": self.samples,
            "seed": self.seed if self.samples else None,
            "dtype": self.dtype,
            "scaled": self.scaled,
        }


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How images are written: the format, the quality of JPEG and WebP, and whether images that exist are replaced.

    Raises `UserError` for an invalid one, as the other options do.
    """

    image_format: ImageFormat = "png"
    quality: int = DEFAULT_QUALITY
    overwrite: bool = False

    def __post_init__(self) -> None:
        _require_one_of("image_format", self.image_format, ImageFormat)
        _require_between("quality", self.quality, 1, 100)


def _require_one_of(name: str, value: str, allowed: Any) -> None:
    require(OptionsError, name, value in get_args(allowed), ", ".join(get_args(allowed)), value)


def _require_between(name: str, value: int, least: int, most: int) -> None:
    require(OptionsError, name, least <= value <= most, f"{least} to {most}", value)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command is: images that are done, of all; those that could not be read; seconds since the start.

    `waited` is the share of the time in which the device computed nothing.
    """

    done: int
    total: int
    unreadable: int
    seconds: float
    waited: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.done / self.seconds if self.seconds else 0.0


ProgressCallback = Callable[[Progress], None]
