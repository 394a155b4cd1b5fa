"""CORS middleware: which web pages may call the service; a refused preflight gets problem details."""

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from app.context import accepted_id
from app.errors import BadRequest
from app.http.problems import problem
from app.validation import quoted


class CorsMiddleware(CORSMiddleware):
    """Starlette's middleware, with errors that name the header that is not allowed."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Respond to an OPTIONS request of a browser (Fetch standard, CORS-preflight fetch)."""
        request_id = accepted_id(request_headers.get("x-request-id", ""))
        response = super().preflight_response(request_headers)
        if response.status_code >= 400:
            refusal = problem(BadRequest("; ".join(self._errors(request_headers))), request_id)
            own = {"content-type", "content-length"}
            refusal.headers.update({name: value for name, value in response.headers.items() if name not in own})
            response = refusal
        response.headers["x-request-id"] = request_id
        response.headers["x-content-type-options"] = "nosniff"
        return response

    def _errors(self, headers: Headers) -> list[str]:
        origin, method = headers["origin"], headers["access-control-request-method"]
        errors: list[str] = []
        if not self.is_allowed_origin(origin):
            errors.append(f"Origin: expected one of VAE_CORS_ORIGINS, got {quoted(origin)}")
        if method not in self.allow_methods:
            allowed = " or ".join(self.allow_methods)
            errors.append(f"Access-Control-Request-Method: expected {allowed}, got {quoted(method)}")
        return errors or ["Access-Control-Request-Private-Network: expected none"]
