"""Deprecated name of the package `vae_client`, for one version; `pip install ./app/client` installs that package."""

import warnings
from importlib import import_module
from typing import Any

_MOVED = ("AsyncClient", "Client", "Encoded", "Images", "Problem", "Sampled", "Scored", "Size")


def __getattr__(name: str) -> Any:
    """Return a name of `vae_client`, with a warning."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"app.client.{name} is deprecated: pip install ./app/client and import {name} from vae_client",
        DeprecationWarning,
        stacklevel=2,
    )
    return getattr(import_module("app.client.vae_client"), name)
