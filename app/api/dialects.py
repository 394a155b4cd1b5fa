"""Registry of the dialects beside the native API, a line for each."""

from app.api import kserve
from app.api.dialect import Dialect

DIALECTS: tuple[Dialect, ...] = (kserve.DIALECT,)
