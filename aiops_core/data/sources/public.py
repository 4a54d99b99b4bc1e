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

__all__ = ["PUBLIC", "paths"]

#: Dates are made up where a data set has none; a Monday, so that weeks read well.
EPOCH = pd.Timestamp("2024-01-01", tz="UTC")
_GITHUB = "https://raw.githubusercontent.com/"
_UPSTREAM = {
    "cmapss": "alireza-javanmardi/conformal-RUL-intervals/37e450ac8b656229d44aed3ac39dcf85ea11b86c/data/CMAPSS/",
    "nsl-kdd": "mekkheir/Dataset/33515a0cc85db4c22ca38258c7c7ed91b7b9675f/",
    "cicids2017-improved": (
        "ScubaInstructor/fuh/86d1bab5ca174da11e20bc54d9642ba6068f273a/nids-daten/sampled_CICIDS2017_improved_rnd_5000/"
    ),
    "datacenter-traces": "alejandrofdez-us/DataCenter-Traces-Datasets/003bb8e7ce9aaf4ed16ddf1652bc1a279c8ac2e6/",
    "nab": "numenta/NAB/ea702d75cc2258d9d7dd35ca8e5e2539d71f3140/",
}
#: Names that differ between the mirror and upstream.
_RENAMED = {
    "datacenter-traces/google2019_300s_month.csv": "google2019/instance_usage_grouped_300_seconds_month.csv",
    "datacenter-traces/azure_v2_300s_month.csv": "azure_v2/vm_cpu_readings_month_aggregated_cpu_mem.csv",
    "datacenter-traces/alibaba2018_300s_8days.csv": "alibaba2018/machine_usage_days_1_to_8_grouped_300_seconds.csv",
}
_SHA256 = {
    "cicids2017-improved/BENIGN_5000.csv": "4eb03c14763fe5ff4f58e713e39ad930cfdec264e8d5262b4acd6df3227298ae",
    "cicids2017-improved/Botnet_736.csv": "55b49f70d1d7df13644a3d5f01abb742e35cda5d952ee43c737eaa38a1a6ea79",
    "cicids2017-improved/DDoS_5000.csv": "36eb4d2851997237b4b13e9f4c8175563d5236c784dcf7247b7b46b08dc62815",
    "cicids2017-improved/DoS_GoldenEye_5000.csv": "cb6f7b734168b643153cd45ce7f552e8b073b5b8a744c1a2a02763212d2cec6c",
    "cicids2017-improved/DoS_Hulk_5000.csv": "64789076d2559ce1e4bead0fcbe2b806de2b3c5cd97771705295cafd3ed0cfb7",
    "cicids2017-improved/DoS_Slowhttptest_1740.csv": "4159ba005254aa8b0a0c04b47844f2221369279eedf19308fa9875cc075f3534",
    "cicids2017-improved/DoS_Slowloris_3859.csv": "8114bfec656df7e8c4b9d539640ad3b01ad50794a2faa9fb0ccf5884ca03f157",
    "cicids2017-improved/FTP-Patator_3972.csv": "73355b1584316393ec7b367407db0e2914d18692eff3bd7b9cc91ed89daa8145",
    "cicids2017-improved/Heartbleed_11.csv": "bf610cc626325778dda3e54b431cc60142f6b8bffedb1f9b8a7f9481a673ea55",
    "cicids2017-improved/Infiltration_-_Portscan_5000.csv": "1a7a6a0906995f2eb6f2ea951b3d4ee024010e9e15783efb0a19c3c04876308d",
    "cicids2017-improved/Infiltration_36.csv": "3cd57b9cd7a7a9f7fa98f2c4d2147febafe551cc9d9b86a949a6947cda576beb",
    "cicids2017-improved/Portscan_5000.csv": "022a5885f6704f8c4ab0ef888b31e5ee1aef46b6c64fe6b3c039e51f93f31c96",
    "cicids2017-improved/SSH-Patator_2961.csv": "07319168e4435ea24439f64ece1dcf64ad1c2c58cce9e062e9cba757aea94709",
    "cicids2017-improved/Web_Attack_-_Brute_Force_73.csv": "d244df46f686a48ded36b0328ad14e80beee1c5560fede0e3f07cea02ee030d9",
    "cicids2017-improved/Web_Attack_-_SQL_Injection_13.csv": "aca6ed973bf1ace011a44ddfc3914393895828666314a018e7581e27343be1e0",
    "cicids2017-improved/Web_Attack_-_XSS_18.csv": "51ffc2d6d24497e11768b2b80beca3a15353d76c3e28f5c98affc24e8affb94e",
    "cmapss/RUL_FD001.txt": "a19c8ec94931949d0485bdc35118206e9c81c4547b422efb9cf86f4ceddbceca",
    "cmapss/test_FD001.txt": "3cda7109ce17bafb5443f2ac926cfcf88154b941b8c4cf95eb55d1ddd6f52851",
    "cmapss/train_FD001.txt": "963b5e22825b34d8b21c69e1aeb4af3e647050eb672ee8834ba4b5d91d2de0f8",
    "datacenter-traces/alibaba2018_300s_8days.csv": "3cbe34a882f31272cecdf9cdab27d2e91d964f9dd45c199f9f53e6d38379746a",
    "datacenter-traces/azure_v2_300s_month.csv": "1ab1a1e4285bcfb5d1619f084d227872d30ae1f044c230b82af398cb60fd5067",
    "datacenter-traces/google2019_300s_month.csv": "3f2a240bcbcc97fe74d3609381029c03aad97d4adf28b753d2b058cbd448d20d",
    "nab/data/realAWSCloudwatch/ec2_cpu_utilization_24ae8d.csv": "ab446fbd8b9f37507eb2fdb06315826d8daeef02e241133ce06e0ee571ba53d9",
    "nab/data/realAWSCloudwatch/ec2_cpu_utilization_53ea38.csv": "8942e498de7b40f1b4a6d802755592c09b8fb73ce8f658763a09cb9ea1ea94ac",
    "nab/data/realAWSCloudwatch/ec2_cpu_utilization_5f5533.csv": "01613e6f632d067f11a5dfd40a188b0789752b388d9bc77a398bd06333878a76",
    "nab/data/realAWSCloudwatch/ec2_cpu_utilization_77c1ca.csv": "90ceabd570b449241ee24ff8a116a793979b7671ce4490707311bfea0e0aae1f",
    "nab/data/realAWSCloudwatch/ec2_cpu_utilization_825cc2.csv": "d768419037c9db269343822957314f57ee21a7d9a4d41df2add0d1ba45ba84de",
    "nab/data/realAWSCloudwatch/ec2_cpu_utilization_ac20cd.csv": "749a15c2e1a4543c21fee9cbf3338cd8a7ed5f5f8a1308b9b099b06c2c66e66b",
    "nab/data/realAWSCloudwatch/ec2_cpu_utilization_c6585a.csv": "d936cea74682ed43ac96b778352d7de294c0b0c168f4a7e6817162346cdb28c1",
    "nab/data/realAWSCloudwatch/ec2_cpu_utilization_fe7f93.csv": "f3433f8171f4dcea86c0c7af9996d0f166f812fa0f4567f1d5cd85d2d2cd69b4",
    "nab/data/realAWSCloudwatch/ec2_disk_write_bytes_1ef3de.csv": "ce3d6c6a652ed7c31a6dd3727a36e128fcac6fb2381c63267ad0fbc02eccd9df",
    "nab/data/realAWSCloudwatch/ec2_disk_write_bytes_c0d644.csv": "a0e734a66098bb81833835f0839dadafbc8ae829c51494670ee8849e46eb5b63",
    "nab/data/realAWSCloudwatch/ec2_network_in_257a54.csv": "39104b08f2e0a673b5137eb7681897fcadf0955fedf565740a6a94edc63a81a4",
    "nab/data/realAWSCloudwatch/ec2_network_in_5abac7.csv": "c27ef93f582af63bf42e80d804764cbe64ae987620f3cfab5477d6ebb3c6157e",
    "nab/data/realAWSCloudwatch/elb_request_count_8c0756.csv": "74c26574a01ca9fb89dddb5021e2e13c3a93eb25dc640438a9acb1ceb00f1021",
    "nab/data/realAWSCloudwatch/grok_asg_anomaly.csv": "86a0abe9d58e376858d2fd4f4a438f1997e24c64a09e5af03accd4e1b372ac47",
    "nab/data/realAWSCloudwatch/iio_us-east-1_i-a2eb1cd9_NetworkIn.csv": "f115fbe6542159eed5612445bfa620708a28ab6b41349d1432bb15c3a3b8414d",
    "nab/data/realAWSCloudwatch/rds_cpu_utilization_cc0c53.csv": "d5df979ef85928769a016cd0f935919d8c2a113926e21e1eb3a5001d688760e2",
    "nab/data/realAWSCloudwatch/rds_cpu_utilization_e47b3b.csv": "6b712b922ab3b3404c5a629d64a570c390c99471ee8b9b0ff7665f553fda92c1",
    "nsl-kdd/NSL_KDD.zip": "3ba51add3e2042b2731d2e28623176c445d5de14b644cb099bde425f6195fb39",
}


def paths(name: str) -> list[Path]:
    """Return the local files of a public data set, fetched and checked.

    Raises
    ------
    DataError
        If a file is missing from the mirror, has another content than pinned, or cannot be fetched.
    """
    files = [file for file in _SHA256 if file.startswith(f"{name}/")]
    mirror = settings.load().datasets_dir
    if mirror is not None:
        return [_mirrored(mirror / file, _SHA256[file]) for file in files]
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    found = []
    for file in files:
        url = _GITHUB + _UPSTREAM[name] + _RENAMED.get(file, file.split("/", 1)[1])
        target = settings.load().cache_dir / file
        try:
            found.append(
                Path(pooch.retrieve(url, known_hash=f"sha256:{_SHA256[file]}", fname=target.name, path=target.parent))
            )
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


_CICIDS_DROP = ["id", "Flow ID", "Src IP", "Dst IP", "Src Port", "Timestamp", "Attempted Category", "Label"]


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
    """Network flows with nine classes; columns that identify the attacker are dropped, infinite rates are missing."""
    frame = pd.concat([pd.read_csv(path) for path in sorted(paths("cicids2017-improved"))], ignore_index=True)
    labels = frame["Label"].map({label: _cicids_class(label) for label in frame["Label"].unique()})
    frame = frame.drop(columns=_CICIDS_DROP).replace([np.inf, -np.inf], np.nan)
    frame["threat_type"] = labels
    return validated(
        "cicids2017",
        "CIC-IDS2017 flows, corrected, at most 5,000 a label",
        "research use, cite UNB CIC and KU Leuven",
        {"activity": frame},
        {"threat": {"test_fraction": 0.3}},
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
