"""CORS: which browsers may call the service; a preflight that is refused gets problem details."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from app.context import accepted_id
from app.errors import BadRequest
from app.http.problems import problem
from app.validation import quoted


class CorsMiddleware(CORSMiddleware):
    """Starlette's middleware, whose refusals name the header that is wrong."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """The response to an OPTIONS request of a browser (fetch standard, CORS-preflight fetch)."""
        request_id = accepted_id(request_headers.get("x-request-id", ""))
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:
            refused = problem(BadRequest("; ".join(self._wrong(request_headers))), request_id)
            own = {"content-type", "content-length"}
            refused.headers.update({name: value for name, value in response.headers.items() if name not in own})
            response = refused
        response.headers["x-request-id"] = request_id
        response.headers["x-content-type-options"] = "nosniff"
        return response

    def _wrong(self, headers: Headers) -> list[str]:
        origin, method = headers["origin"], headers["access-control-request-method"]
        wrong = []
        if not self.is_allowed_origin(origin):
            wrong.append(f"Origin: expected one of VAE_CORS_ORIGINS, got {quoted(origin)}")
        if method not in self.allow_methods:
            allowed = " or ".join(self.allow_methods)
            wrong.append(f"Access-Control-Request-Method: expected {allowed}, got {quoted(method)}")
        return wrong or ["Access-Control-Request-Private-Network: expected none"]
