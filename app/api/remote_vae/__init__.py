"""The diffusers dialect: the wire of `diffusers.utils.remote_utils`, raw tensors with everything else in the query."""

from app.api.dialect import Dialect
from app.api.remote_vae.endpoints import ENDPOINTS

DIALECT = Dialect(
    "diffusers",
    "/diffusers",
    ENDPOINTS,
    "For `remote_decode` and `remote_encode` of diffusers: raw tensors, and everything else in the query.",
)
