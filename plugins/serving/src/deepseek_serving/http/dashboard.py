"""The page at ``/``: its files, which lie in this package and come from no other host."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deepseek_serving.errors import UnknownError

_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
#: Nothing from elsewhere: no script, no style, no picture but those made on the page.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


class Dashboard:
    """Gives the page's files."""

    def routes(self) -> list[Route]:
        """The page, and what it loads."""
        return [Route("/", self.page), Route("/dashboard/{file}", self.file)]

    async def page(self, request: Request) -> Response:
        """The page itself."""
        return _file("index.html")

    async def file(self, request: Request) -> Response:
        """A script, a style or a picture."""
        return _file(request.path_params["file"])


def _file(name: str) -> Response:
    found = {item.name: item for item in files("deepseek_serving").joinpath("dashboard").iterdir()}
    suffix = "." + name.rpartition(".")[2]
    if name not in found or suffix not in _KINDS:
        raise UnknownError(f"there is no file `{name[:80]}`")
    headers = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff", "cache-control": "no-cache"}
    return Response(found[name].read_bytes(), media_type=_KINDS[suffix], headers=headers)
