"""Documentation pages: /docs, with its files served by this service, and /openapi.json."""

from importlib.resources import files

from fastapi.openapi.docs import get_swagger_ui_html, get_swagger_ui_oauth2_redirect_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from app.api.openapi import DocumentedApplication
from app.codecs.media_types import JSON


async def openapi_document(request: Request) -> Response:
    """Send the OpenAPI document."""
    app: DocumentedApplication = request.app
    return Response(app.openapi_json(request.scope.get("app_root_path", "")), media_type=JSON)


_STYLE = b"""<style>
.response:not([data-code^="2"]) .response-col_description > :not(.response-col_description__inner),
.response:not([data-code^="2"]) .response-col_links > * { display: none }
.response:not([data-code^="2"]) td { padding-top: 4px !important; padding-bottom: 4px !important }
.response:not([data-code^="2"]) p { margin: 0 !important }
</style></head>"""
"""One line for each error: all have one form, which the schemas show."""


async def swagger_ui(request: Request) -> Response:
    """Send the page that shows the OpenAPI document; its addresses are relative, below whatever prefix a proxy has."""
    page = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=f"{request.app.title} - Swagger UI",
        oauth2_redirect_url="/docs/oauth2-redirect",
        swagger_js_url="docs/static/swagger-ui-bundle.js",
        swagger_css_url="docs/static/swagger-ui.css",
        swagger_favicon_url="docs/static/favicon.png",
        swagger_ui_parameters={"defaultModelsExpandDepth": 0, "displayRequestDuration": True},
    )
    return HTMLResponse(bytes(page.body).replace(b"</head>", _STYLE, 1))


async def root(request: Request) -> Response:
    """Redirect to the documentation, relative to the address of the request unless the root path is known."""
    root_path = request.scope.get("app_root_path")
    return RedirectResponse(f"{root_path}/docs" if root_path else "docs")


async def oauth2_redirect(request: Request) -> Response:  # noqa: ARG001  # Starlette's signature
    """Send the page to which an OAuth2 provider redirects."""
    return get_swagger_ui_oauth2_redirect_html()


def routes() -> list[BaseRoute]:
    """Return the routes of the documentation."""
    return [
        Route("/", root),
        Route("/openapi.json", openapi_document),
        Route("/docs", swagger_ui),
        Route("/docs/oauth2-redirect", oauth2_redirect),
        Mount("/docs/static", StaticFiles(directory=str(files("fastapi_offline") / "static"))),
    ]
