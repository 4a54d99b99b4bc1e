"""The Serve config files: valid for Ray Serve, and their arguments valid for `build`."""

from __future__ import annotations

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
