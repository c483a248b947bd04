"""Starts the service on one machine: reads the Ray Serve config, starts Ray, deploys, stops.

Imports of Ray stand inside functions: its settings must be in the environment first, and `--help`
must not wait for it.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from models.stores import StoreConfig
from serve import auth
from serve.config import ServeConfig
from serve.problems import said

_IMPORT_PATH = "serve.app:build"
_ERROR = re.compile(r"[\w.]+(Error|Exception): ")
_SETTINGS = Path(__file__).parents[1] / "infra" / "serve.env"
_LOCAL = {
    "RAY_AUTH_MODE": "disabled",  # else a local start writes a token that clients then lack
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray lets a replica that HAProxy reaches drain for 30 s; here nobody is behind a balancer.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
}


@dataclass(frozen=True)
class Plan:
    """A Ray Serve config with our one application."""

    config: ServeConfig
    """With absolute paths."""
    name: str
    route_prefix: str
    deployment: dict[str, Any]
    """Options of the deployment `Ebb`."""
    proxy_location: str
    http_options: dict[str, Any]

    @property
    def host(self) -> str:
        """Where the proxy listens."""
        return str(self.http_options.get("host") or "127.0.0.1")

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.http_options.get("port", 8000))

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}{self.route_prefix.rstrip('/')}"


def set_environment() -> None:
    """Settings that Ray reads when it is imported and started; those that are set already win."""
    if not os.environ.get("RAY_ADDRESS"):
        for name, value in _LOCAL.items():
            os.environ.setdefault(name, value)
    if _SETTINGS.is_file():  # an installation without the repository has Ray's own defaults
        for line in _SETTINGS.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not name.startswith("#"):
                os.environ.setdefault(name.strip(), value.strip())


def read_plan(path: Path, overrides: Sequence[str] = (), *, port: int | None = None) -> Plan:
    """Reads and checks a Ray Serve config.

    Args:
        path: the YAML file.
        overrides: `a.b=c` for the application's `args`.
        port: instead of `http_options.port`.

    Raises:
        ValueError: with the file, the key and what is wrong.
    """
    from ray.serve.schema import ServeDeploySchema

    given = _yaml(path)
    try:
        checked = ServeDeploySchema.model_validate(given).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise ValueError(_lines(error, str(path))) from None
    unknown = next(_lost(given, checked), None)
    if unknown is not None:
        raise ValueError(f"{path}: {unknown}: unknown key")
    applications = checked["applications"]
    if len(applications) != 1 or applications[0]["import_path"] != _IMPORT_PATH:
        raise ValueError(
            f"{path}: one application with import_path {_IMPORT_PATH} is what this command "
            "serves; `serve run` takes any"
        )
    (application,) = applications
    deployments = {d["name"]: d for d in application.get("deployments", [])}
    options = {k: v for k, v in deployments.pop("Ebb", {}).items() if k != "name"}
    if deployments:
        raise ValueError(f"{path}: there is no deployment {', '.join(deployments)}, only Ebb")
    http_options = checked.get("http_options", {})
    return Plan(
        config=_args(application.get("args", {}), overrides, path),
        name=application.get("name", "default"),
        route_prefix=application.get("route_prefix") or "/",
        deployment=options,
        proxy_location=str(given.get("proxy_location", "EveryNode")),
        http_options=http_options if port is None else {**http_options, "port": port},
    )


def check_port(plan: Plan) -> None:
    """Raises ValueError when the port is taken."""
    family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((plan.host, plan.port))
        except OSError as error:
            what = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had: {error}"
            raise ValueError(
                f"port {plan.port} of {plan.host} {what}; `make stop` ends a service of this "
                "checkout, --port takes another"
            ) from None


@contextmanager
def ray_session(plan: Plan) -> Iterator[None]:
    """A Ray with Serve on it; what was started here is stopped, and nothing else.

    Joins the cluster of RAY_ADDRESS, else starts a small one.
    """
    import ray
    from ray import serve as ray_serve

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    joins = bool(os.environ.get("RAY_ADDRESS"))
    if joins:
        ray.init(**quiet)
    else:
        check_port(plan)
        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=200_000_000,
            include_dashboard=False,
            **quiet,
        )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    had_serve = joins and bool(ray_serve.status().proxies)
    try:
        ray_serve.start(proxy_location=plan.proxy_location, http_options=plan.http_options)
        yield
    finally:
        if had_serve:
            ray_serve.delete(plan.name)
        else:
            # Ray prints that its controller was ended, as if that were a fault.
            with redirect_stdout(io.StringIO()):
                ray_serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def deploy(plan: Plan) -> None:
    """Deploys the application and waits until it is loaded and warm.

    Raises:
        ValueError: when it cannot be.
    """
    from ray import serve as ray_serve

    from serve.app import Ebb

    application = Ebb.options(**plan.deployment).bind(plan.config.model_dump(mode="json"))  # type: ignore[attr-defined]
    try:
        ray_serve.run(application, name=plan.name, route_prefix=plan.route_prefix)
    except RuntimeError as error:
        raise ValueError(f"the service does not start: {_why(plan) or error}") from error


def _why(plan: Plan) -> str:
    """The error behind a failed deployment: the end of its replica's traceback."""
    from ray import serve as ray_serve

    application = ray_serve.status().applications.get(plan.name)
    deployment = application and application.deployments.get("Ebb")
    lines = deployment.message.strip().splitlines() if deployment else []
    begins = [place for place, line in enumerate(lines) if _ERROR.match(line)]
    return "\n".join(lines[begins[-1] :]) if begins else ""


def _yaml(path: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{path}: a mapping is needed at the top; see configs/serve.yaml")
    return given


def _args(args: dict[str, Any], overrides: Sequence[str], path: Path) -> ServeConfig:
    for text in overrides:
        keys, equals, value = text.partition("=")
        *parents, last = keys.split(".")
        place = args
        for key in parents:
            place = place.setdefault(key, {})
        if not equals or not isinstance(place, dict):
            raise ValueError(f"--set {text}: write it as key.key=value")
        place[last] = yaml.safe_load(value)
    try:
        config = ServeConfig.model_validate(args)
    except ValidationError as error:
        raise ValueError(_lines(error, f"{path}: args")) from None
    store = config.store
    if isinstance(store, StoreConfig):
        store = store.model_copy(update={"path": store.path.absolute()})
    return config.model_copy(update={"release": config.release.absolute(), "store": store})


def _lost(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    """Keys that a schema passed over without a word."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if key in kept:
                yield from _lost(value, kept[key], f"{place}{key}.")
            else:
                yield f"{place}{key}"
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{place}{number}.")


def _lines(error: ValidationError, where: str) -> str:
    """A line per problem."""
    found = error.errors(include_url=False)
    return "\n".join(f"{where}: {'.'.join(map(str, e['loc']))}: {said(e)}" for e in found)


def check_before_start(plan: Plan) -> None:
    """What can be told without starting Ray.

    Raises:
        ValueError: when there is no release, or the service would stand open to others.
    """
    auth.check_exposure(plan.host, auth.keys_from_environment())
    if not (plan.config.release / "manifest.json").is_file():
        raise ValueError(
            f"no release at {plan.config.release}: run `make release` first, or name another with "
            "--set release=FOLDER"
        )
