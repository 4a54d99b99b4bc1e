"""The only reader of the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from aiops_core.errors import UsageError

#: What a process that the service starts may know of the environment: how to run, which store and data, and how to sign in
#: there. Everything else, such as the secret of the webhooks, is none of its business.
_INHERITED = (
    "CONDA_PREFIX", "HOME", "HOSTNAME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "TZ", "USER",
    "VIRTUAL_ENV", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR", "SSL_CERT_FILE", "CUDA_VISIBLE_DEVICES", "PGPASSFILE", "PGSSLROOTCERT",
    "RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_USAGE_STATS_ENABLED",
    "AIOPS_CACHE_DIR", "AIOPS_CONCURRENT_SEARCHES", "AIOPS_DATASETS_DIR", "AIOPS_HOME", "AIOPS_STATE_DIR",
)  # fmt: skip
_INHERITED_PREFIXES = (
    "LC_", "LD_", "PYTHON", "XDG_", "MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "OMP_", "MKL_", "OPENBLAS_", "TF_",
)  # fmt: skip


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
    keep_jobs : int
        Training jobs that are kept, the newest; older ones are removed with their reports when another one starts.
    home : Path
        The project's folder: relative defaults start there, so that a notebook, the command line and a papermill run
        share one registry. By default the nearest folder upwards that holds ``pyproject.toml``, else the current one.
    mlflow_tracking_uri : str
        MLflow store; by default the SQLite file ``mlflow.db`` in `home`.
    ray_address : str or None
        Ray cluster to join; ``None`` starts a local one.
    concurrent_searches : int
        Searches that share the cluster at the same time; each takes its part of the CPUs.
    monitor_schedule : str
        Cron expression, UTC, at which the service has its monitoring run; empty for never.
    webhooks : dict
        Remediation action id to the URL its signed body is posted to.
    webhook_secret : str or None
        Key of the HMAC-SHA256 signature of a webhook body.
    log : {"note", "all", "off"}
        Which requests the service logs: those refused, failed, slow or changing something; all; or none.
    log_slow_seconds : float
        From when on a request is slow.
    otlp_endpoint, otlp_headers : str
        OTLP collector that gets a span of every request, and ``name=value`` headers for it; none by default.
    journal : {"on", "off"}
        Whether the service keeps its answers with their inputs.
    journal_max_mb : int
    journal_days : float
        Size and age of the journal; the oldest records go first.
    journal_drop, journal_hash : tuple of str
        Fields of the journal and of feedback that are not kept, or only as a keyed hash, separated by commas; see
        `aiops_core.journal.Privacy`.
    alerts : {"on", "off"}
        Whether alarms become alerts.
    alert_after : tuple of two int
        An alert opens after so many alarms among so many answers of a resource, written ``2/3``.
    alert_quiet : int
    alert_hours : float
        It closes after so many answers without an alarm, or when the last alarm is so long ago.
    retrain_cron, retrain_on_drift, retrain_labels : str, bool, int
        When the service trains again: at the times of a cron expression (UTC), when the monitoring says *act*, after so many
        new labels; by default never.
    retrain_policy : {"never", "better"}
        Whether the verdict *better* on live traffic promotes what a retraining has put into the shadow.
    retrain_cool_down_hours, retrain_trials, retrain_tasks : float, int, tuple of str
        Hours between two retrainings of a task, trials of each, and which tasks, separated by commas.
    keys_file : Path or None
        Keys of the HTTP service; ``None`` means ``keys.json`` in the state folder.
    key : str or None
        Key that a client, such as the notebook of the service, sends.
    allowed_hosts : tuple of str
        Names that requests may call the service by, beside those of the loopback interface and the host it listens on;
        separated by commas, ``*`` for any.
    metrics_open : bool
        Whether the metrics are shown to callers without a key.
    source_roots : tuple of Path
        Folders below which training over HTTP may read tables, separated by colons; by default ``datasets`` in the state
        folder.
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
    keep_jobs: int = Field(default=50, ge=1)
    mlflow_tracking_uri: str = Field(default="", validation_alias="MLFLOW_TRACKING_URI")
    ray_address: str | None = Field(default=None, validation_alias="RAY_ADDRESS")
    concurrent_searches: int = Field(default=1, ge=1)
    monitor_schedule: str = ""
    webhooks: dict[str, str] = {}
    webhook_secret: str | None = None
    log: Literal["note", "all", "off"] = "note"
    log_slow_seconds: float = Field(default=1.0, gt=0)
    otlp_endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    otlp_headers: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_HEADERS")
    journal: Literal["on", "off"] = "on"
    journal_max_mb: int = Field(default=2048, ge=1)
    journal_days: float = Field(default=30.0, gt=0)
    journal_drop: Annotated[tuple[str, ...], NoDecode] = ()
    journal_hash: Annotated[tuple[str, ...], NoDecode] = ()
    alerts: Literal["on", "off"] = "on"
    alert_after: Annotated[tuple[int, int], NoDecode] = (2, 3)
    alert_quiet: int = Field(default=3, ge=1)
    alert_hours: float = Field(default=24.0, gt=0)
    retrain_cron: str = ""
    retrain_on_drift: bool = False
    retrain_labels: int = Field(default=0, ge=0)
    retrain_policy: Literal["never", "better"] = "never"
    retrain_cool_down_hours: float = Field(default=24.0, ge=0)
    retrain_trials: int = Field(default=5, ge=1)
    retrain_tasks: Annotated[tuple[Literal["failure", "threat", "capacity"], ...], NoDecode] = (
        "failure",
        "threat",
        "capacity",
    )
    keys_file: Path | None = None
    key: str | None = Field(default=None, repr=False)
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    metrics_open: bool = False
    source_roots: Annotated[tuple[Path, ...], NoDecode] = ()

    @field_validator("allowed_hosts", "journal_drop", "journal_hash", "retrain_tasks", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("alert_after", mode="before")
    @classmethod
    def _share(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        hits, slash, of = value.partition("/")
        if not (slash and hits.strip().isdecimal() and of.strip().isdecimal() and 1 <= int(hits) <= int(of) <= 100):
            raise ValueError("write it like 2/3: after two alarms among three answers, of at most 100")
        return int(hits), int(of)

    @field_validator("source_roots", mode="before")
    @classmethod
    def _folders(cls, value: object) -> object:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    max_body_mb: int = Field(default=16, ge=1)
    max_answer_mb: int = Field(default=160, ge=1)
    max_held_mb: int = Field(default=256, ge=1)
    max_requests: int = Field(default=512, ge=1)

    @model_validator(mode="after")
    def _relative_to_home(self) -> Settings:
        self.home = self.home.resolve()
        self.state_dir = self.home / self.state_dir
        self.keys_file = None if self.keys_file is None else self.home / self.keys_file
        self.source_roots = tuple(self.home / root for root in self.source_roots)
        self.mlflow_tracking_uri = self.mlflow_tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"
        return self


def project_folder() -> Path:
    """Return the nearest folder from the current one upwards that holds ``pyproject.toml``, else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)


def for_children() -> dict[str, str]:
    """Return the part of the environment that a process started by the service is given."""
    # Proxies are named in small letters too.
    return {k: v for k, v in os.environ.items() if k.upper() in _INHERITED or k.startswith(_INHERITED_PREFIXES)}


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
