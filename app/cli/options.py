"""What the options of `vae train` and `vae evaluate` say; a `OptionsError` names the one that cannot be used."""

import re
import shlex
import sys
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

import torch

from app.inference.device import choose_device
from model.checkpoint import Checkpoint
from model.config import VAEConfig
from model.device import disable_tf32
from model.training.options import BOUNDS, PRECISIONS, OptionsError, require_between


class Architecture(NamedTuple):
    """The architecture as the command line writes it; an empty `image_shape` is the data's own.

    Where a trained model is gone on from, `start` is its config, and counts instead.
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

    @property
    def binarize(self) -> str:
        """How pixels come from grey levels unless it is told."""
        return usual_binarize(self.start.likelihood if self.start else self.likelihood)

    def fitted(self) -> tuple[int, ...] | None:
        """(C, H, W) that pictures are fitted to, if it was told."""
        return self.start.image_shape if self.start else self._told_shape()

    def config(self, image_shape: tuple[int, ...]) -> VAEConfig:
        """The architecture for images of one shape."""
        return self.start or VAEConfig(**self._fields_for(image_shape))

    def going_on_from(self, start: VAEConfig, told: Container[str]) -> "Architecture":
        """The architecture of a trained model; refuse what was told otherwise than it is there."""
        for field, value in self._fields_for(self._told_shape() or start.image_shape).items():
            option, own = "latent" if field == "latent_shape" else field, getattr(start, field)
            if option in told and value != own:
                raise OptionsError(f"{option}: expected {own!r}, as --start has it, got {value!r}")
        return self._replace(start=start)

    def _told_shape(self) -> tuple[int, ...] | None:
        shape = integers("image_shape", self.image_shape)
        if shape and (len(shape) != 3 or shape[0] not in (1, 3) or min(shape) < 1):
            raise OptionsError(f"image_shape: expected C,H,W with C of 1 or 3, got {self.image_shape!r}")
        return shape or None

    def _fields_for(self, image_shape: tuple[int, ...]) -> dict[str, Any]:
        channels = integers("channels", self.channels)
        return {
            "image_shape": image_shape,
            "latent_shape": integers("latent", self.latent),
            "stride": self.stride,
            "channels": channels,
            "blocks": integers("blocks", self.blocks) if self.blocks else (1,) * len(channels),
            "hidden": integers("hidden", self.hidden),
            "likelihood": self.likelihood,
            "scale": self.scale,
        }


class TrainingRun(NamedTuple):
    """The data, the folder of the model, whether to resume or to download, and the model to start from."""

    data: Path
    out: Path
    resume: bool
    download: bool
    start: Checkpoint | None


class EvaluationOptions(NamedTuple):
    """What is scored and how: `binarize` empty is as in training, `limit` 0 is all images."""

    samples: int
    binarize: str
    seed: int
    limit: int
    precision: str

    def require_usable(self) -> None:
        """Refuse what cannot be scored."""
        if self.binarize not in ("", "dynamic", "none"):
            raise OptionsError(f"binarize: expected dynamic or none, got {self.binarize!r}")
        if self.precision not in PRECISIONS:
            raise OptionsError(f"precision: expected {' or '.join(PRECISIONS)}, got {self.precision!r}")
        require_between("samples", self.samples, 1, 10**6)
        require_between("limit", self.limit, 0, 10**9)
        require_between("seed", self.seed, *BOUNDS["seed"])


def integers(option: str, text: str) -> tuple[int, ...]:
    """The integers of "4,7,7"; none of ""."""
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise OptionsError(f"{option}: expected integers like 4,7,7, got {text!r}") from None


def usual_binarize(likelihood: str) -> str:
    """How the pixels that a likelihood is of come from grey levels."""
    return "dynamic" if likelihood == "bernoulli" else "none"


def use_device(name: str, threads: int) -> torch.device:
    """The device to work on, with `threads` CPU threads, 0 for torch's own choice."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise OptionsError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    require_between("threads", threads, 0, 1024)
    if threads:
        torch.set_num_threads(threads)
    disable_tf32()
    return choose_device(name)


def command() -> str:
    """The command as it can be given again from the start."""
    return shlex.join(["vae", *(word for word in sys.argv[1:] if word != "--resume")])
