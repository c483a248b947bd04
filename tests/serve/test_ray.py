"""The service on a real Ray Serve, and the command that starts it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from serve.launch import Plan, deploy, read_plan
from serve.schemas import MAX_BODY_BYTES
from serve.welcome import Client, introduction
from tests.serve.world import event, fine, ids, problem, texts

pytestmark = pytest.mark.ray


def config_file(release: Path, folder: Path) -> Path:
    """The repository's config, on the tiny release and a free port."""
    document = yaml.safe_load(Path("configs/serve.yaml").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        document["http_options"]["port"] = free.getsockname()[1]
    args = document["applications"][0]["args"]
    args["release"], args["store"]["path"] = str(release), str(folder / "store")
    # A busy machine must not degrade what is not about budgets.
    args["budgets"] = {"memory": "60s", "rank": "60s"}
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def plan(
    ray_cluster: None, release: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Plan]:
    from ray import serve as ray_serve

    plan = read_plan(config_file(release, tmp_path_factory.mktemp("ray")))
    ray_serve.start(proxy_location=plan.proxy_location, http_options=plan.http_options)
    deploy(plan)
    yield plan
    ray_serve.shutdown()


@pytest.fixture
def http(plan: Plan) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plan.url, timeout=60) as client:
        yield client


def test_an_event_is_in_the_next_request_and_erased_with_its_user(http: httpx.Client):
    assert fine(http.get("/health/ready")) == {"status": "ready"}
    nobody = fine(http.post("/v1/recommend", json={"user_id": "ann"}))
    assert nobody["items"]
    rows = {"events": [event(1), event(2, item_id="blue-mug"), event(3, action="marry")]}
    told = fine(http.post("/v1/events", json=rows))
    assert (told["accepted"], len(told["rejected"])) == (2, 1)
    reply = fine(http.post("/v1/recommend", json={"user_id": "ann", "page_size": 100}))
    assert "you bought this just now" in texts(reply, "red-clock")
    assert reply["degraded"] == []
    found = fine(http.post("/v1/search", json={"query": "blue mug", "user_id": "ann"}))
    assert "you bought this just now" in texts(found, "blue-mug")
    assert fine(http.get("/v1/users/ann/memory"))["num_events"] == 2
    assert fine(http.delete("/v1/users/ann/memory"))["num_events"] == 2
    after = fine(http.post("/v1/recommend", json={"user_id": "ann"}))
    assert ids(after) == ids(nobody)


def test_every_error_is_a_problem_document(http: httpx.Client):
    problem(http.get("/v1/nothing"), 404, "not-found")
    problem(http.put("/v1/events"), 405, "method-not-allowed")
    problem(http.post("/v1/search", content=b'{"query'), 400, "malformed-json")
    problem(http.post("/v1/search", json={"quary": "a"}), 400, "invalid-request")
    over = b'{"query": "' + b"a" * MAX_BODY_BYTES + b'"}'
    problem(http.post("/v1/search", content=over), 413, "body-too-large")


def test_the_introduction_works_as_printed(plan: Plan, http: httpx.Client):
    client = Client(plan.url)
    client.wait(60)
    lines = introduction(client, plan.config.release)
    assert len(lines) == 4
    for title, line in lines:
        done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("{"), (title, line, done.stdout)
        assert "urn:ebb:problem" not in done.stdout, (title, line, done.stdout)


@pytest.mark.slow
def test_the_command_serves_until_it_is_told_to_stop(release: Path, tmp_path: Path):
    config = config_file(release, tmp_path)
    command = [sys.executable, "-m", "serve", "--config", str(config)]
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 240
        while "Ctrl-C" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        url = re.search(r"Ebb serves at (\S+)", log.read_text())
        assert url is not None
        assert fine(httpx.get(f"{url[1]}/health/ready")) == {"status": "ready"}
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert "is taken" in second.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url[1]}/health/live")
    finally:
        process.terminate()
        process.wait(120)
