import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from serve import launch
from serve.launch import check_before_start, check_port, read_plan, set_environment
from serve.welcome import report

CONFIG = Path("configs/serve.yaml")


def changed(tmp_path: Path, text: str, other: str) -> Path:
    """The real config with one thing changed."""
    whole = CONFIG.read_text()
    assert text in whole
    path = tmp_path / "serve.yaml"
    path.write_text(whole.replace(text, other))
    return path


def test_the_config_in_the_repository_is_whole():
    plan = read_plan(CONFIG)
    assert (plan.host, plan.port, plan.url) == ("127.0.0.1", 8000, "http://127.0.0.1:8000")
    assert plan.config.clock == "release"
    assert plan.config.release.is_absolute()
    assert plan.config.store.path.is_absolute()
    assert plan.deployment["num_replicas"] == 1
    assert "name" not in plan.deployment


def test_options_override(tmp_path):
    plan = read_plan(CONFIG, ["release=/x", "budgets.rank=5ms", "clock=wall"], port=9000)
    assert plan.config.release == Path("/x")
    assert (plan.config.budgets.rank, plan.config.budgets.memory) == (5, 250)
    assert (plan.config.clock, plan.port) == ("wall", 9000)


@pytest.mark.parametrize(
    ("text", "other", "said"),
    [
        ("num_replicas: 1", "num_replicsa: 1", "deployments.0.num_replicsa: unknown key"),
        ("proxy_location:", "proxylocation:", "proxylocation: unknown key"),
        ("port: 8000", "prt: 8000", "http_options.prt: unknown key"),
        ("threads: 2", "treads: 2", "args: treads: unknown field"),
        ("rank: 1s", "rank: soon", "args: budgets.rank: 'soon' is no duration"),
        ("clock: release", "clock: sun", "args: clock: "),
        ("serve.app:build", "other:build", "import_path serve.app:build"),
        ("- name: Ebb", "- name: Flow", "no deployment Flow"),
        ("num_replicas: 1", "num_replicas: [", "not YAML"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, other, said):
    with pytest.raises(ValueError, match="serve") as error:
        read_plan(changed(tmp_path, text, other))
    assert said in str(error.value)


def test_no_config_says_so(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_plan(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match="--set clock: write it as"):
        read_plan(CONFIG, ["clock"])


def test_without_a_release_ray_is_not_even_started(tmp_path):
    with pytest.raises(ValueError, match="make release"):
        check_before_start(read_plan(CONFIG, [f"release={tmp_path}"]))


def test_an_open_host_needs_keys(tmp_path, monkeypatch):
    monkeypatch.delenv("EBB_API_KEYS", raising=False)
    with pytest.raises(ValueError, match="EBB_API_KEYS"):
        check_before_start(read_plan(changed(tmp_path, "127.0.0.1", "0.0.0.0")))


def test_a_taken_port_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is taken"):
            check_port(read_plan(CONFIG, port=port))


def test_settings_of_the_environment_win(monkeypatch):
    for name in (*launch._LOCAL, "RAY_ADDRESS", "RAY_SERVE_HAPROXY_NBTHREAD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    before = dict(os.environ)
    try:
        set_environment()
        assert os.environ["RAY_SERVE_ENABLE_HA_PROXY"] == "0"
        assert os.environ["RAY_SERVE_HAPROXY_NBTHREAD"] == "1"
        assert os.environ["RAY_AUTH_MODE"] == "disabled"
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_the_command_fails_with_one_line(tmp_path):
    command = [sys.executable, "-m", "serve", "--set", f"release={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: no release at {tmp_path}")
    assert "Traceback" not in done.stderr


def test_the_report_beside_a_release(tmp_path):
    assert report(tmp_path / "release") == ""
    (tmp_path / "evaluation").mkdir()
    told = "# Evaluation\n\n## Ranking\n| a |\n\n## Ablation\n| b |\n"
    (tmp_path / "evaluation" / "report.md").write_text(f"{told}\n## Slices\n| c |\n")
    assert report(tmp_path / "release") == told


def test_the_config_is_what_ray_reads():
    from ray.serve.schema import ServeDeploySchema

    ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    assert shutil.which("serve", path=str(Path(sys.executable).parent)) is not None
