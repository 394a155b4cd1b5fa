"""Python client of the VAE service, synchronous and asynchronous. Needs only numpy and httpx.

with Client("http://localhost:8000") as vae:
    encoded = vae.encode("three.png")       # a path, bytes, or an image of Pillow; one or a list
    encoded = vae.encode(images)            # an array of numpy or a tensor of torch
    images = vae.decode(encoded.mean)       # uint8 [N, H, W, C]
"""

from .arguments import Size
from .async_client import AsyncClient
from .client import Client
from .items import Images
from .results import Encoded, Problem, Sampled, Scored

__all__ = ["AsyncClient", "Client", "Encoded", "Images", "Problem", "Sampled", "Scored", "Size"]
