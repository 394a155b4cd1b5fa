"""Dialects: APIs beside the native one, with paths, wire formats and errors of their own.

The requests of all dialects pass the same authentication, admission, limits, deadlines, batches and metrics.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from app.api.endpoint import Endpoint
from app.context import OTHER
from app.http.problems import ErrorForm, problem_details
from app.http.targets import Route, Target


@dataclass(frozen=True, slots=True)
class Dialect:
    """Declaration of a dialect: its name in metrics and in the OpenAPI document, and its endpoints below a `prefix`.

    `error_form` writes the body of an error, also of one before an endpoint is called, such as a wrong key or a path
    below the prefix that leads nowhere. `description` and the `schemas` of bodies are for the OpenAPI document.
    """

    name: str
    prefix: str
    endpoints: Sequence[Endpoint]
    description: str
    error_form: ErrorForm = problem_details
    schemas: Sequence[type[BaseModel]] = ()

    def targets(self) -> Iterator[Route]:
        """Yield the target of each endpoint, and last that of all other paths below the prefix."""
        for endpoint in self.endpoints:
            target = Target(
                self.name, endpoint.label or endpoint.path, endpoint.uses_queue, endpoint.is_public, self.error_form
            )
            yield endpoint.path, target
        other = Target(self.name, OTHER, error_form=self.error_form)
        yield self.prefix, other
        yield f"{self.prefix}/{{path:path}}", other
