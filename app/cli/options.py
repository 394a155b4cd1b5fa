"""Options of `vae train` and `vae evaluate`, checked. A `OptionsError` names an invalid one."""

import re
import shlex
import sys
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from app.inference.device import choose_device
from model.config import ConfigError, VAEConfig
from model.device import disable_tf32
from model.errors import OptionsError
from model.training.options import BOUNDS, PRECISIONS, TrainingOptions, require_between


class Architecture(NamedTuple):
    """The architecture as given on the command line; without `image_shape` images keep the shape of the data.

    `start` is the config of the trained model from which a training starts, and replaces the other fields.
    """

    image_shape: str
    latent: str
    stride: int
    channels: str
    blocks: str
    hidden: str
    likelihood: str
    scale: float
    start: VAEConfig | None = None

    def resized_shape(self) -> tuple[int, ...] | None:
        """The shape (C, H, W) to which images are resized, if one was given."""
        return self.start.image_shape if self.start else self._given_shape()

    def config(self, image_shape: tuple[int, ...]) -> VAEConfig:
        """The architecture for images of one shape. Raises `OptionsError`."""
        try:
            return self.start or VAEConfig(**self._fields_for(image_shape))
        except ConfigError as error:
            raise OptionsError(str(error).replace("latent_shape:", "latent:", 1)) from None

    def continued_from(self, start: VAEConfig, given: Container[str], source: str) -> "Architecture":
        """The architecture of a trained model; raises `OptionsError` for a given option that contradicts it.

        `source` says in the error where the architecture stands.
        """
        for field, value in self._fields_for(self._given_shape() or start.image_shape).items():
            option = "latent" if field == "latent_shape" else field
            if option in given:
                _require_equal(option, getattr(start, field), value, source)
        return self._replace(start=start)

    def _given_shape(self) -> tuple[int, ...] | None:
        shape = parse_integers("image_shape", self.image_shape)
        if shape and (len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1):
            raise OptionsError(f"image_shape: expected C,H,W with C of 1 or 3, got {self.image_shape!r}")
        return shape or None

    def _fields_for(self, image_shape: tuple[int, ...]) -> dict[str, Any]:
        channels = parse_integers("channels", self.channels)
        return {
            "image_shape": image_shape,
            "latent_shape": parse_integers("latent", self.latent),
            "stride": self.stride,
            "channels": channels,
            "blocks": parse_integers("blocks", self.blocks) if self.blocks else (1,) * len(channels),
            "hidden": parse_integers("hidden", self.hidden),
            "likelihood": self.likelihood,
            "scale": self.scale,
            "posterior": "bounded",
        }


class TrainingRun(NamedTuple):
    """The data, the folder of the model, whether to resume and to download, and the model to start from.

    `keep_state` keeps the state of a complete training. `given` are the names of the options that the command line or
    the recipe has.
    """

    data: Path
    out: Path
    resume: bool
    keep_state: bool
    download: bool
    start: Path | None
    given: frozenset[str]


class EvaluationOptions(NamedTuple):
    """Options of an evaluation. An empty `binarize` means as in training, a `limit` of 0 all images."""

    samples: int
    binarize: str
    seed: int
    limit: int
    precision: str

    def validate(self) -> None:
        """Raise `OptionsError` for an invalid option."""
        if self.binarize not in ("", "dynamic", "none"):
            raise OptionsError(f"binarize: expected dynamic or none, got {self.binarize!r}")
        if self.precision not in PRECISIONS:
            raise OptionsError(f"precision: expected {' or '.join(PRECISIONS)}, got {self.precision!r}")
        require_between("samples", self.samples, 1, 10**6)
        require_between("limit", self.limit, 0, 10**9)
        require_between("seed", self.seed, *BOUNDS["seed"])


def parse_integers(option: str, text: str) -> tuple[int, ...]:
    """Parse integers such as "4,7,7"; an empty text has none."""
    example = "1,28,28" if option == "image_shape" else "4,7,7"
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise OptionsError(f"{option}: expected integers like {example}, got {text!r}") from None


def continued_options(recorded: TrainingOptions, given: dict[str, Any], source: str) -> TrainingOptions:
    """The recorded options, with more epochs if given; raises `OptionsError` for one that is invalid or contradicts."""
    changed = replace(recorded, **given)  # refuses values that are invalid in themselves
    for option, value in given.items():
        if option != "epochs" or value < recorded.epochs:
            _require_equal(option, getattr(recorded, option), value, source)
    return changed


def _require_equal(option: str, expected: object, got: object, source: str) -> None:
    if got != expected:
        raise OptionsError(f"{option}: expected {_spell(expected)}, as {source}, got {_spell(got)}")


def _spell(value: Any) -> str:
    """Write a value as the command line takes it."""
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else repr(value)


def default_binarize(likelihood: str) -> str:
    """The default binarization for a likelihood."""
    return "dynamic" if likelihood == "bernoulli" else "none"


class Hardware(NamedTuple):
    """The name of the device, and the number of CPU threads; 0 keeps the default of torch."""

    device: str
    threads: int

    def use(self) -> torch.device:
        """Choose the device, and set the number of CPU threads."""
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise OptionsError(f"device: expected auto, cpu, cuda or cuda:N, got {self.device!r}")
        require_between("threads", self.threads, 0, 1024)
        if self.threads:
            torch.set_num_threads(self.threads)
        disable_tf32()
        return choose_device(self.device)


def command_line() -> str:
    """The command line that repeats this run from the start."""
    return shlex.join(["vae", *(word for word in sys.argv[1:] if word != "--resume")])
