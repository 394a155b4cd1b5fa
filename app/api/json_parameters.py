"""Parameters of a request as a JSON object in its body, beside those of the query."""

from typing import TypeVar

from app.api.endpoint import EndpointRequest
from app.api.query import Query
from app.api.request_bodies import MAX_PARAMETERS_BYTES, read_body, unsupported
from app.codecs.media_types import JSON, kind_of
from app.errors import UnprocessableContent
from app.validation import parse_json, quoted

Q = TypeVar("Q", bound=Query)

_MAX_VALUES = 64

_EXPECTED = f"{JSON}, or the parameters in the query, as ?n=3"


async def read_parameters(request: EndpointRequest, query: Q) -> Q:
    """Return the parameters of the query and of the body; without a body those of the query.

    A parameter may be in both with one value, or with the default in the query, where generated clients always send it.
    Raises `BadRequest` for a body that is not JSON, `UnprocessableContent` for other fields or values than those of the
    query, and for a parameter with two values, `ContentTooLarge` for a body of more than `MAX_PARAMETERS_BYTES`,
    `UnsupportedMediaType` for a body that neither begins like JSON nor has its content type.
    """
    body = await read_body(request, "", MAX_PARAMETERS_BYTES)
    if not body:
        return query
    content_type = request.context.headers.get(b"content-type", b"").decode("latin-1")
    if kind_of(content_type, body) != JSON:
        raise unsupported(_EXPECTED, content_type, body)
    sent = parse_json(type(query), body, max_values=_MAX_VALUES, max_names=_MAX_VALUES, max_arrays=_MAX_VALUES)
    for name in sorted(sent.model_fields_set & query.model_fields_set):
        if getattr(query, name) not in (getattr(sent, name), type(query).model_fields[name].default):
            raise UnprocessableContent(f"{name}: expected one value, got {quoted(name)} in query and body with two")
    return query.model_copy(update={name: getattr(sent, name) for name in sent.model_fields_set})
