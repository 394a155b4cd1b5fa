"""Root path: the path prefix below which clients find the service, as behind a reverse proxy.

It is a setting, or comes with each request as `root_path` of the ASGI scope. The path of a request begins with it,
unless the proxy has removed it.
"""

from starlette.types import Scope


def route_path(path: str, root_path: str) -> str:
    """Return the path of a request below the root path; the root path itself is /."""
    rest = path.removeprefix(root_path.rstrip("/"))
    return (rest or "/") if rest[:1] in ("", "/") else path


def without_root_path(scope: Scope, root_path: str) -> Scope:
    """Return the scope of a request as a service without a root path gets it; `app_root_path` is that of Starlette."""
    path = route_path(scope["path"], root_path)
    return {**scope, "path": path, "root_path": "", "app_root_path": root_path.rstrip("/")}
