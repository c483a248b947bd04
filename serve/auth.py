"""API keys: `Authorization: Bearer KEY`, the keys being those of EBB_API_KEYS, with commas."""

from __future__ import annotations

import hmac
import ipaddress
import os

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.problems import Problem

VARIABLE = "EBB_API_KEYS"
OPEN = ("/health/live", "/health/ready", "/openapi.json", "/docs")
"""Paths that say nothing of anybody."""


def keys_from_environment() -> list[str]:
    """The keys, none where there are none."""
    return [key.strip() for key in os.environ.get(VARIABLE, "").split(",") if key.strip()]


def check_exposure(host: str, keys: list[str]) -> None:
    """Without keys the service listens to its own machine only.

    Raises:
        ValueError: when it would not.
    """
    if not keys and not is_loopback(host):
        raise ValueError(
            f"the service would listen on {host} without an API key: anybody could read and erase "
            f"what is remembered. Set {VARIABLE}=key[,key...] where Ray starts, or set "
            "http_options.host to 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class ApiKeys:
    """ASGI middleware: no request without a key gets further. No keys: every request does."""

    def __init__(self, app: ASGIApp, keys: list[str]) -> None:
        self._app, self._keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 401."""
        if self._passes(scope):
            await self._app(scope, receive, send)
        else:
            detail = "send one of the service's API keys: Authorization: Bearer KEY"
            problem = Problem(
                401, "unauthorized", detail, headers={"WWW-Authenticate": 'Bearer realm="ebb"'}
            )
            await problem.response()(scope, receive, send)

    def _passes(self, scope: Scope) -> bool:
        if scope["type"] != "http" or not self._keys or scope["path"] in OPEN:
            return True
        header = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, given = header.partition(b" ")
        # Every key is compared to its end, so the time taken tells nothing of them.
        matches = [hmac.compare_digest(given.strip(), key) for key in self._keys]
        return scheme.lower() == b"bearer" and any(matches)
