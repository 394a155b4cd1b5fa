"""Targets of requests: the dialect and the endpoint that a path belongs to, known before the request is routed."""

import re
from collections.abc import Iterable
from re import Pattern
from typing import NamedTuple

from starlette.routing import compile_path

from app.context import MODEL_PATHS, NATIVE, OTHER, EndpointPath
from app.http.problems import ErrorForm, problem_details

PUBLIC_PATHS = frozenset(("/", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"))


class Target(NamedTuple):
    """What a path leads to.

    `dialect` and `endpoint` are its labels in metrics; the access log has the endpoint. Requests that use the queue of
    the model are refused while it is full. A public target is for operators: it needs no key, and is neither limited,
    logged nor traced. `error_form` writes the errors of the dialect.
    """

    dialect: str
    endpoint: str
    uses_queue: bool = False
    is_public: bool = False
    error_form: ErrorForm = problem_details


Route = tuple[str, Target]
"""A path as Starlette writes it, perhaps with parameters such as {name}, and its target."""

_UNKNOWN, _PUBLIC = Target(NATIVE, OTHER), Target(NATIVE, OTHER, is_public=True)
_NATIVE: tuple[Route, ...] = (
    *((path.value, Target(NATIVE, path.value, path in MODEL_PATHS)) for path in EndpointPath),
    *((path, _PUBLIC) for path in PUBLIC_PATHS),
)


class Targets(dict[str, Target]):
    """The targets of all paths: of the native endpoints, and of the `routes` of other dialects.

    The first route of a path counts. Of paths without parameters the target is found by one look into the dictionary.
    """

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        super().__init__(_NATIVE)
        self._patterns: list[tuple[Pattern[str], Target]] = []
        for path, target in routes:
            if "{" in path:
                pattern = re.compile(compile_path(path)[0].pattern, re.DOTALL)  # a path may have a line break
                self._patterns.append((pattern, target))
            else:
                self.setdefault(path, target)

    def __missing__(self, path: str) -> Target:
        for pattern, target in self._patterns:
            if pattern.match(path):
                return target
        return _PUBLIC if path.startswith(("/docs/", "/web/")) else _UNKNOWN

    def labels(self) -> set[tuple[str, str]]:
        """Return the dialect and the endpoint of each target."""
        return {target[:2] for target in (*self.values(), *(target for _, target in self._patterns))}
