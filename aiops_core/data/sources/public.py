"""Public data sets by name: pinned files, fetched or mirrored, made contract tables. Official splits are kept.

Files are fetched by pinned URL and sha256, or read from a local mirror (``AIOPS_DATASETS_DIR``); a file of
another content is refused either way.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from aiops_core import settings
from aiops_core.data.tables import Dataset
from aiops_core.data.validation import validated
from aiops_core.errors import DataError

#: Dates are made up where a data set has none; a Monday, so that weeks read well.
EPOCH = pd.Timestamp("2024-01-01", tz="UTC")
#: File, sha256 and address of every file, in the format of pooch's registries; names may differ from upstream's.
PINS = Path(__file__).with_name("pins.txt")


def paths(name: str) -> list[Path]:
    """Return the local files of a public data set, fetched and checked.

    Raises
    ------
    DataError
        If a file is missing from the mirror, has another content than pinned, or cannot be fetched.
    """
    pins = [line.split() for line in PINS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{name}/")]
    mirror = settings.load().datasets_dir
    if mirror is not None:
        return [_mirrored(mirror / file, sha256) for file, sha256, _ in pins]
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    found = []
    for file, sha256, url in pins:
        target = settings.load().cache_dir / file
        try:
            found.append(Path(pooch.retrieve(url, f"sha256:{sha256}", fname=target.name, path=target.parent)))
        except Exception as error:
            # pooch passes on whatever the transport raised.
            raise DataError(
                f"data set '{name}': {target.name} cannot be fetched ({type(error).__name__}); "
                "set AIOPS_DATASETS_DIR to a folder that holds it"
            ) from error
    return found


def _mirrored(path: Path, sha256: str) -> Path:
    if not path.is_file():
        raise DataError(f"AIOPS_DATASETS_DIR holds no file {path.parent.name}/{path.name}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise DataError(f"file {path.name} in AIOPS_DATASETS_DIR has another content than the pinned sha256")
    return path


def _cmapss() -> Dataset:
    """Engines run to failure: a resource is an engine, a step a flight cycle (stamped hourly)."""
    rul, test, train = sorted(paths("cmapss"), key=lambda p: p.name)
    columns = ["unit", "cycle", *[f"setting_{i}" for i in (1, 2, 3)], *[f"sensor_{i:02d}" for i in range(1, 22)]]
    frames, incidents = [], []
    remaining = {unit + 1: int(life) for unit, life in enumerate(rul.read_text().split())}
    for part, path in (("train", train), ("test", test)):
        frame = pd.read_csv(path, sep=r"\s+", header=None, names=columns)
        frame["resource_id"] = part + "-engine-" + frame["unit"].map("{:03d}".format)
        frame["timestamp"] = EPOCH + pd.to_timedelta(frame["cycle"], unit="h")
        frame["split"] = part
        last = frame.groupby("resource_id", as_index=False).agg(unit=("unit", "first"), cycle=("cycle", "max"))
        extra = last["unit"].map(remaining) if part == "test" else 0
        start = EPOCH + pd.to_timedelta(last["cycle"] + extra, unit="h")
        incidents.append(
            pd.DataFrame({"resource_id": last["resource_id"], "start": start, "end": start + pd.Timedelta(hours=1)})
        )
        frames.append(frame.drop(columns=["unit", "cycle"]))
    tables = {"telemetry": pd.concat(frames, ignore_index=True), "incidents": pd.concat(incidents, ignore_index=True)}
    config: dict[str, dict[str, object]] = {"failure": {"window": 60, "horizon": 30}}
    return validated("cmapss", "NASA C-MAPSS FD001 turbofan engines", "US government work", tables, config)


_KDD_COLUMNS = (
    "duration protocol_type service flag src_bytes dst_bytes land wrong_fragment urgent hot num_failed_logins logged_in "
    "num_compromised root_shell su_attempted num_root num_file_creations num_shells num_access_files num_outbound_cmds "
    "is_host_login is_guest_login count srv_count serror_rate srv_serror_rate rerror_rate srv_rerror_rate same_srv_rate "
    "diff_srv_rate srv_diff_host_rate dst_host_count dst_host_srv_count dst_host_same_srv_rate dst_host_diff_srv_rate "
    "dst_host_same_src_port_rate dst_host_srv_diff_host_rate dst_host_serror_rate dst_host_srv_serror_rate "
    "dst_host_rerror_rate dst_host_srv_rerror_rate"
).split()
_KDD_CLASSES = {
    "dos": "back land neptune pod smurf teardrop apache2 udpstorm processtable worm mailbomb",
    "probe": "satan ipsweep nmap portsweep mscan saint",
    "r2l": (
        "guess_passwd ftp_write imap phf multihop warezmaster warezclient spy xlock xsnoop snmpguess snmpgetattack "
        "httptunnel sendmail named"
    ),
    "u2r": "buffer_overflow loadmodule rootkit perl sqlattack xterm ps",
}


def _nsl_kdd() -> Dataset:
    """Read connections of five classes; the attack name is the group, the official files are the split."""
    (archive,) = paths("nsl-kdd")
    names = {attack: label for label, attacks in _KDD_CLASSES.items() for attack in attacks.split()}
    frames = []
    with zipfile.ZipFile(archive) as opened:
        for part, member in (("train", "KDDTrain+.txt"), ("test", "KDDTest+.txt")):
            with opened.open(member) as file:
                frame = pd.read_csv(file, header=None, names=[*_KDD_COLUMNS, "group", "difficulty"])
            frame["threat_type"] = frame["group"].map(names).fillna("normal")
            frame["split"] = part
            frames.append(frame.drop(columns="difficulty"))
    tables = {"activity": pd.concat(frames, ignore_index=True)}
    return validated("nsl-kdd", "NSL-KDD connections, five classes", "research use, cite Tavallaee 2009", tables, {})


_CICIDS_DROP = ["id", "Flow ID", "Src IP", "Dst IP", "Src Port", "Timestamp", "Attempted Category"]


def _cicids_class(label: str) -> str:
    exact = {
        "BENIGN": "normal",
        "DDoS": "ddos",
        "Botnet": "botnet",
        "Infiltration": "infiltration",
        "Heartbleed": "heartbleed",
    }
    if label in exact:
        return exact[label]
    if label.startswith("DoS "):
        return "dos"
    if label.endswith("Portscan"):
        return "portscan"
    if label.endswith("-Patator"):
        return "brute_force"
    if label.startswith("Web "):
        return "web_attack"
    raise DataError(f"data set 'cicids2017': unknown label {label!r}", table="activity", column="threat_type")


def _cicids2017() -> Dataset:
    """Network flows with nine classes; columns that identify the attacker are dropped, infinite rates are missing.

    The label is the group, but the usual split is by rows: five of the classes are one label.
    """
    frame = pd.concat([pd.read_csv(path) for path in sorted(paths("cicids2017-improved"))], ignore_index=True)
    labels = frame["Label"].map({label: _cicids_class(label) for label in frame["Label"].unique()})
    frame = frame.drop(columns=_CICIDS_DROP).replace([np.inf, -np.inf], np.nan).rename(columns={"Label": "group"})
    frame["threat_type"] = labels
    return validated(
        "cicids2017",
        "CIC-IDS2017 flows, corrected, at most 5,000 a label",
        "research use, cite UNB CIC and KU Leuven",
        {"activity": frame},
        {"threat": {"test_fraction": 0.3, "whole_groups": False}},
    )


def _datacenter_traces() -> Dataset:
    """Cluster-level CPU and memory of three operators, 5-minute steps.

    Shares become per cent; Azure's totals are divided by 100,000 to come to the same order of size.
    """
    alibaba, azure, google = sorted(paths("datacenter-traces"), key=lambda p: p.name)
    shares = {
        "alibaba-2018": (alibaba, "cpu_util_percent", "mem_util_percent", 1.0),
        "azure-v2": (azure, "cpu_usage", "assigned_mem", 1e-5),
        "google-2019": (google, "avg_cpu", "avg_mem", 100.0),
    }
    frames = []
    for resource, (path, cpu, memory, factor) in shares.items():
        frame = pd.read_csv(path)
        steps = frame["timestamp"] if "timestamp" in frame.columns else pd.Series(np.arange(len(frame)) * 300)
        frames.append(
            pd.DataFrame(
                {
                    "resource_id": resource,
                    "timestamp": EPOCH + pd.to_timedelta(steps, unit="s"),
                    "cpu_usage": frame[cpu].to_numpy(float) * factor,
                    "memory_usage": frame[memory].to_numpy(float) * factor,
                }
            ).drop_duplicates("timestamp", keep="last")
        )
    config: dict[str, dict[str, object]] = {
        "capacity": {"season": 288, "horizon": 288, "origins": 5, "origin_step": 144, "score_steps": [1, 12, 72, 288]}
    }
    tables = {"usage": pd.concat(frames, ignore_index=True)}
    return validated("datacenter-traces", "Cluster traces: Google, Azure, Alibaba", "CC-BY 4.0", tables, config)


def _nab() -> Dataset:
    """CloudWatch series at 5-minute steps, one resource a file; of a repeated stamp the last value counts."""
    frames = []
    for path in sorted(paths("nab")):
        frame = pd.read_csv(path)
        frames.append(
            pd.DataFrame(
                {
                    "resource_id": path.stem,
                    "timestamp": pd.to_datetime(frame["timestamp"]).dt.tz_localize("UTC"),
                    "value": frame["value"].to_numpy(float),
                }
            ).drop_duplicates("timestamp", keep="last")
        )
    config: dict[str, dict[str, object]] = {
        "capacity": {"season": 288, "horizon": 72, "origins": 6, "origin_step": 48, "score_steps": [1, 12, 72]}
    }
    return validated("nab", "Numenta Anomaly Benchmark, CloudWatch series", "MIT", {"usage": pd.concat(frames)}, config)


PUBLIC: dict[str, Callable[[], Dataset]] = {
    "cmapss": _cmapss,
    "nsl-kdd": _nsl_kdd,
    "cicids2017": _cicids2017,
    "datacenter-traces": _datacenter_traces,
    "nab": _nab,
}
