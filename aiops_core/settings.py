"""The only reader of the environment."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from aiops_core.errors import UsageError


class Settings(BaseSettings):
    """Settings of one process: read from the environment, prefix ``AIOPS_``, plus two names that other tools fix.

    Attributes
    ----------
    datasets_dir : Path or None
        Local mirror of the public data sets; ``None`` downloads them on first use.
    cache_dir : Path
        Where downloaded files are kept.
    state_dir : Path
        Working state of the service: fetched servables, training jobs, audit log.
    home : Path
        The project's folder: relative defaults start there, so that a notebook, the command line and a papermill run
        share one registry. By default the nearest folder upwards that holds ``pyproject.toml``, else the current one.
    mlflow_tracking_uri : str
        MLflow store; by default the SQLite file ``mlflow.db`` in `home`.
    ray_address : str or None
        Ray cluster to join; ``None`` starts a local one.
    concurrent_searches : int
        Searches that share the cluster at the same time; each takes its part of the CPUs.
    webhooks : dict
        Remediation action id to the URL its signed body is posted to.
    webhook_secret : str or None
        Key of the HMAC-SHA256 signature of a webhook body.
    max_body_mb, max_answer_mb : int
        Largest body of a request to the service, and largest answer.
    max_held_mb : int
        Bodies and large answers that one replica holds at a time.
    max_requests : int
        Requests that one replica has under way at a time; beyond, it answers 503.
    """

    model_config = SettingsConfigDict(env_prefix="AIOPS_", extra="ignore")

    datasets_dir: Path | None = None
    cache_dir: Path = Path.home() / ".cache" / "aiops"
    home: Path = Field(default_factory=lambda: project_folder())
    state_dir: Path = Path(".aiops")
    mlflow_tracking_uri: str = Field(default="", validation_alias="MLFLOW_TRACKING_URI")
    ray_address: str | None = Field(default=None, validation_alias="RAY_ADDRESS")
    concurrent_searches: int = Field(default=1, ge=1)
    webhooks: dict[str, str] = {}
    webhook_secret: str | None = None
    max_body_mb: int = Field(default=16, ge=1)
    max_answer_mb: int = Field(default=160, ge=1)
    max_held_mb: int = Field(default=256, ge=1)
    max_requests: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _relative_to_home(self) -> Settings:
        self.home = self.home.resolve()
        self.state_dir = self.home / self.state_dir
        self.mlflow_tracking_uri = self.mlflow_tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"
        return self


def project_folder() -> Path:
    """Return the nearest folder from the current one upwards that holds ``pyproject.toml``, else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def load() -> Settings:
    """Read the settings from the environment, anew at every call.

    Raises
    ------
    UsageError
        If a variable has a value of the wrong form.
    """
    try:
        return Settings()  # type: ignore[call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        name = "AIOPS_" + str(first["loc"][0]).upper()
        raise UsageError(f"environment variable {name}: {first['msg']}") from error
