"""The Serve config files: valid for Ray Serve, and their arguments valid for `build`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "serve_app" / "deploy"


@pytest.mark.parametrize("name", ["one-node.yaml", "deployments.yaml", "several-nodes.yaml"])
def test_a_config_file_is_what_ray_serve_accepts(name: str) -> None:
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.schema import ServeDeploySchema

    from serve_app.app import Args, build

    content: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))
    parsed = ServeDeploySchema.model_validate(content)
    (application,) = parsed.applications
    assert application.import_path == "serve_app.app:build"
    arguments = Args.model_validate(content["applications"][0]["args"])
    bound = call_user_app_builder_with_args_if_necessary(build, content["applications"][0]["args"])
    overridden = {d["name"] for d in content["applications"][0].get("deployments", [])}
    expected = {"ingress"} if arguments.placement == "ingress" else {"ingress", "failure", "threat", "capacity"}
    assert overridden <= expected
    assert bound._bound_deployment.name == "ingress"


def test_an_unknown_argument_is_refused() -> None:
    from serve_app.app import Args

    with pytest.raises(ValueError, match="placment"):
        Args.model_validate({"placment": "ingress"})


def test_the_environment_file_has_the_settings_of_aiops_serve() -> None:
    from serve_app.run import FAST

    lines = (DEPLOY / "environment.sh").read_text(encoding="utf-8").splitlines()
    pairs = (line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    given = {name: value.strip('"') for name, value in pairs}
    # `aiops serve` starts and joins its cluster in one process, which needs no token mode for clients.
    assert given.pop("RAY_AUTH_MODE") == "token"
    assert given.items() <= FAST.items()


def test_the_environment_file_gives_haproxy_a_fresh_folder_that_nobody_else_can_enter() -> None:
    script = f". {DEPLOY / 'environment.sh'} && env"
    folders = []
    for _ in range(2):
        found = subprocess.run(
            ["sh", "-c", script],
            check=True,
            capture_output=True,
            text=True,
            cwd=DEPLOY.parents[1],
            env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        )
        given = dict(line.split("=", 1) for line in found.stdout.splitlines())
        folder = Path(given.get("RAY_SERVE_HAPROXY_SOCKET_PATH", "/tmp/haproxy-serve/admin.sock")).parent
        assert folder.is_dir() and folder.stat().st_mode & 0o777 == 0o700
        assert Path(given["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"]).parent == folder
        folders.append(folder)
    assert folders[0] != folders[1]
    for folder in folders:
        shutil.rmtree(folder)


def test_haproxys_extra_ports_are_bound_to_loopback_and_its_socket_is_private(tmp_path: Path) -> None:
    """The template of the installed release of Ray, corrected by the program that Ray starts as HAProxy."""
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    from serve_app.cluster import haproxy

    folder, given = haproxy.settings()
    script = Path(given[haproxy.BINARY])
    lines = script.read_text().splitlines()
    script.write_text("\n".join(['exec echo "$@"' if line.startswith("exec ") else line for line in lines]))
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY_CONFIG_TEMPLATE)
    said = subprocess.run([script, "-db", "-f", config, "-x", "s"], check=True, capture_output=True, text=True).stdout
    shutil.rmtree(folder)
    assert said.strip() == f"-db -f {config} -x s"
    binds = [line.split() for line in config.read_text().splitlines() if line.split()[:1] == ["bind"]]
    assert sum(words[1].startswith("127.0.0.1:") for words in binds) == 2
    assert "bind {{ config.frontend_host }}:{{ config.frontend_port }}" in config.read_text()
    assert config.read_text().count("option forwardfor except 127.0.0.0/8\n") == 1
    assert "mode 600 level admin" in config.read_text() and "mode 666" not in config.read_text()
