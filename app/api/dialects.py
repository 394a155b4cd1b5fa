"""Registry of the dialects beside the native API, a line for each."""

from app.api import kserve, remote_vae
from app.api.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (remote_vae.DIALECT, kserve.DIALECT)
