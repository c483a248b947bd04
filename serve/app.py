"""Binds the service to Ray Serve: one deployment, all stages in each replica.

`serve run configs/serve.yaml` serves on this machine until Ctrl-C, `serve deploy` on a running
cluster; `python -m serve --config configs/serve.yaml` is the first with an introduction.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.context import _get_global_client  # the only place that knows the HTTP host

from serve import auth, http
from serve.config import ServeConfig
from serve.service import Service


@ray_serve.deployment(max_ongoing_requests=64)
@ray_serve.ingress()
class Ebb:
    """A replica: one service. Ray routes requests to it once it is loaded and warm."""

    def __init__(self, config: dict[str, Any]) -> None:
        logging.getLogger("ebb").setLevel(logging.INFO)
        self.keys = auth.keys_from_environment()
        auth.check_exposure(_http_host(), self.keys)
        checked = ServeConfig.model_validate(config)
        torch.set_num_threads(checked.torch_threads)
        self.service = Service.open(checked)
        self.service.warm_up()

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Ray Serve's hook: the application, once the replica is there."""
        return http.application(self.service, keys=self.keys)

    def __del__(self) -> None:
        """Ray Serve's hook: the replica ends."""
        if hasattr(self, "service"):
            self.service.close()


def build(args: dict[str, Any]) -> Application:
    """The application; `args` are those of `serve.config.ServeConfig`.

    Raises:
        ValueError: when they are not.
    """
    config = ServeConfig.model_validate(args)
    application: Application = Ebb.bind(config.model_dump(mode="json"))  # type: ignore[attr-defined]
    return application


def _http_host() -> str:
    """Where Ray Serve's proxies listen."""
    client = _get_global_client()
    return str(client.http_config.host) if client is not None else "127.0.0.1"
