"""What a model can do beyond encode and decode: listed in /model, and checked before a request is computed."""

from typing import Any

from app.context import Operation
from app.errors import UnsupportedByModel
from app.inference.sized_batches import SizedBatches
from model.interface import FixedSize, LatentScaling, ModelSpec
from model.typicality import Typicality

SAMPLES, SAMPLE, ELBO, TILES, TYPICALITY = "samples", "sample", "elbo", "tiles", "typicality"
"""Draws from the posterior, draws from the prior, the ELBO of an image, images that are computed in tiles, and the
typicality of an image."""


def reasons(spec: ModelSpec, typicality: Typicality | None) -> dict[str, str]:
    """Return each capability with the reason why the model does not have it, empty if it does.

    `typicality` is the calibration of the model, if there is one.
    """
    return {
        SAMPLES: "" if spec.has_variance else "its encoder is deterministic: there is no posterior to draw from",
        SAMPLE: "" if spec.has_prior else f"its latents are not distributed as N(0, I){_FORCE}",
        ELBO: "" if spec.has_elbo else f"its decoder defines no density p(x|z){_ERRORS}",
        TILES: "" if spec.can_tile else "it computes an image as a whole",
        TYPICALITY: "" if typicality else "it was not calibrated by normal images; vae calibrate does that",
    }


_FORCE = ", so draws from it are decoded to no images; ?force=true decodes them all the same"
_ERRORS = "; /score answers the error of the reconstruction, and the KL divergence if the posterior has a variance"


def describe(spec: ModelSpec, typicality: Typicality | None) -> dict[str, Any]:
    """Return the capabilities as `schemas.Model` has them."""
    return {
        name: {"supported": False, "reason": reason} if reason else {"supported": True}
        for name, reason in reasons(spec, typicality).items()
    }


def describe_sizes(spec: ModelSpec, sized: SizedBatches | None) -> dict[str, Any] | None:
    """Return the rule of the image sizes as `schemas.Model` has it; None for a model of one size."""
    rule = spec.sizes
    if isinstance(rule, FixedSize) or sized is None:
        return None
    limits = {
        str(operation): sized.max_untiled_pixels(operation)
        for operation in (Operation.ENCODE, Operation.DECODE, Operation.RECONSTRUCT)
    }
    known = {operation: pixels for operation, pixels in limits.items() if pixels is not None}
    return {
        "factor": rule.factor,
        "minimum": rule.minimum,
        "maximum": rule.maximum,
        **({"largest_whole": known} if known else {}),
    }


def describe_scaling(scaling: LatentScaling) -> dict[str, Any]:
    """Return the units of the diffusion model as `schemas.Model` has them."""
    patch = {} if scaling.patch == (1, 1) else {"patch": scaling.patch}
    return {"scale": scaling.scale, "shift": scaling.shift, **patch}


def require(spec: ModelSpec, capability: str, parameter: str, typicality: Typicality | None = None) -> None:
    """Raise `UnsupportedByModel` if the model lacks a capability; `parameter` names what asks for it."""
    if reason := reasons(spec, typicality)[capability]:
        raise UnsupportedByModel(f"{parameter}: not supported by {spec.identity}: {reason}")
