"""Four weeks after the promotion, played in a few minutes against the real service: `make day-two`.

Synthetic sources are asked about hour by hour; what was true becomes known two days later, of seven rows in ten. In the third
week the gateway is exchanged and counts in other units: quality falls. A retraining learns from journal and feedback, its
version answers in the shadow, is judged on live traffic, promoted by the policy, and quality recovers. A replay of the last
two weeks says what each version would have cost. Everything is done by the commands and routes that a user has; the report is
``reports/day-two``.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import html
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT)]

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from chaos.stand import Stand, wait  # noqa: E402
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from aiops_core import files, journal  # noqa: E402
from aiops_core.data import folder, synthetic  # noqa: E402

TASK, MODEL = "threat", "threat_detector"
DAYS, DRIFT_DAY, RETRAIN_DAY = 28, 14, 19
LATE_DAYS, TOLD = 2, 0.7
SOURCES = 40
#: The new gateway: attempts of twelve seconds instead of a minute, bits, requests of six seconds.
UNITS = {"failed_auth_count": 0.2, "data_transfer_rate": 6.0, "request_rate": 0.1}


@dataclasses.dataclass
class Story:
    """What has happened so far, for the report."""

    start: pd.Timestamp
    began: float = dataclasses.field(default_factory=time.monotonic)
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    looks: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def tell(self, day: float, what: str, words: str, **more: Any) -> None:
        """Note an event of a simulated day."""
        self.events.append({"day": day, "what": what, "words": words, "seconds": time.monotonic() - self.began, **more})
        print(f"day {day:4.1f}  {what}: {words}", flush=True)


def rows(n: int, seed: int, stamps: pd.DatetimeIndex) -> pd.DataFrame:
    """Return rows of activity with times, every one of its own campaign."""
    table = synthetic.dataset(n, seed=seed, tasks=(TASK,)).tables["activity"].drop(columns="group")
    return table.assign(timestamp=stamps)


def world(start: pd.Timestamp, per_day: int, trained_on: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what the champion learns from, and four weeks of traffic, the last two through the new gateway."""
    before = pd.date_range(end=start, periods=trained_on, freq=pd.Timedelta(days=28) / trained_on).floor("s")
    after = pd.date_range(start, periods=DAYS * per_day, freq=pd.Timedelta(days=1) / per_day).floor("s")
    live = rows(DAYS * per_day, 2, after)
    moved = (live["timestamp"] >= start + pd.Timedelta(days=DRIFT_DAY)).to_numpy()
    for name, factor in UNITS.items():
        live[name] = live[name].astype(float) * np.where(moved, factor, 1.0)
    live["source_ip"] = [f"10.0.0.{i}" for i in np.random.default_rng(5).integers(1, SOURCES + 1, len(live))]
    return rows(trained_on, 1, before), live


class Play:
    """The commands and requests of the four weeks.

    Parameters
    ----------
    work : Path
        Registry, state and reports of the run.
    story : Story
    """

    def __init__(self, work: Path, story: Story) -> None:
        self.work, self.story = work, story
        self.state = work / "service" / "state"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("RAY_")},
            "MLFLOW_TRACKING_URI": f"sqlite:///{work / 'mlflow.db'}",
            "AIOPS_STATE_DIR": str(self.state),
            "AIOPS_HOME": str(work),
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        self.sent: dict[str, str] = {}

    def aiops(self, *arguments: str, may_fail: bool = False) -> str:
        """Run a command of ``aiops`` and return what it says."""
        done = subprocess.run(
            [sys.executable, "-m", "aiops_core.cli", *arguments],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        if done.returncode and not may_fail:
            raise RuntimeError(f"aiops {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}")
        return done.stdout.strip()

    def train(self, learned: pd.DataFrame) -> None:
        """Train the first champion as a user does."""
        made = synthetic.dataset(200, seed=1, tasks=(TASK,))
        tables = dataclasses.replace(
            made, name="gateway", title="Gateway, four weeks", tables={"activity": learned}, oracles={}
        )
        folder.save_folder(tables, self.work / "gateway")
        source = str(self.work / "gateway")
        self.aiops("report", "--source", source, "--tasks", TASK, "--trials", "1", "--out", str(self.work / "first"))
        section = json.loads((self.work / "first" / "report.json").read_text())["tasks"][TASK]
        decision = section["gate"]["decision"]
        if decision != "champion":
            self.aiops("models", "promote", MODEL, "1")
        self.story.tell(0, "training", f"version 1 is champion (the gate said: {decision})")

    def day(self, stand: Stand, day: int, live: pd.DataFrame) -> None:
        """Ask about every row of a day, hour by hour, and tell what was true two days ago."""
        first = self.story.start + pd.Timedelta(days=day)
        today = live[(live["timestamp"] >= first) & (live["timestamp"] < first + pd.Timedelta(days=1))]
        hours = [part for _, part in today.groupby(today["timestamp"].dt.hour)]
        for part in hours:
            body = part.drop(columns="threat_type").to_json(orient="records", date_format="iso")
            answer = stand.http.post(
                "predict/threat", content=f'{{"instances": {body}}}', headers={"content-type": "application/json"}
            )
            assert answer.status_code == 200, answer.text
            for said, truth in zip(answer.json()["predictions"], part["threat_type"], strict=True):
                self.sent[said["request_id"]] = f"{day}:{truth}"
        self.tell_truth(stand, day - LATE_DAYS)
        if day == DAYS - 1:
            for late in range(day - LATE_DAYS + 1, DAYS):
                self.tell_truth(stand, late)

    def tell_truth(self, stand: Stand, day: int) -> None:
        """Send feedback on a day; not everything is looked into."""
        rng = np.random.default_rng(day + 100)
        known = [(r, label.split(":", 1)[1]) for r, label in self.sent.items() if label.startswith(f"{day}:")]
        said = [{"kind": "class", "request_id": r, "label": label} for r, label in known if rng.random() < TOLD]
        if said:
            answer = stand.post("feedback", {"feedback": said})
            assert answer.status_code == 200, answer.text

    def look(self, day: int) -> None:
        """Let the monitoring look at the week that ends."""
        if "monitor" not in self.aiops("--help"):
            return
        since = (self.story.start + pd.Timedelta(days=day - 6)).isoformat()
        out = self.work / f"monitor-{day}"
        self.aiops("monitor", "--since", since, "--out", str(out))
        verdict = json.loads((out / "report.json").read_text())["tasks"][TASK]["verdict"]
        self.story.looks.append({"day": day + 1, **verdict})
        self.story.tell(day + 1, "monitoring", f"{verdict['state']}: {' '.join(verdict['why'])}")

    def retrain(self, day: int) -> int | None:
        """Train again on the journal; returns the version that went into the shadow."""
        out = self.work / "retraining"
        self.aiops(
            "retrain", "--task", TASK, "--trials", "1", "--policy", "better", "--out", str(out), "--trigger", "drift"
        )
        found = json.loads((out / "retraining.json").read_text())
        rows_ = found["rows"]["activity"]
        self.story.tell(
            day + 1, "retraining",
            f"version {found['version']} from {rows_['original']:,} rows of the original source and {rows_['journal']:,} of the "
            f"journal; the gate said {found['decision']}: {found['reasons'][0]}",
        )  # fmt: skip
        return found["version"]

    def settle(self, day: int) -> bool:
        """Judge the shadow; returns whether it was promoted."""
        time.sleep(1.5)
        said = self.aiops("retrain", "--settle", "--task", TASK).splitlines()
        promoted = any("promoted" in line for line in said[1:])
        self.story.tell(day + 1, "promotion" if promoted else "judgement", said[0])
        return promoted


def served(stand: Stand) -> str:
    models = stand.get("models/status").json()["models"]
    return str(next(m["version"] for m in models if m["name"] == MODEL))


def play(play: Play, live: pd.DataFrame) -> None:
    """Live through the four weeks."""
    story = play.story
    shadowed, promoted = None, False
    with Stand(play.work / "service", play.environment["MLFLOW_TRACKING_URI"], 1, AIOPS_HOME=str(play.work)) as stand:
        wait(lambda: served(stand) == "1", 30, "version 1 in service")
        story.tell(0, "service", f"stands after {stand.first:.0f} s")
        for day in range(DAYS):
            if day == DRIFT_DAY:
                story.tell(day, "drift", "the gateway is exchanged and counts in other units")
            play.day(stand, day, live)
            if day in (6, 13, RETRAIN_DAY, DAYS - 1):
                time.sleep(1.5)
                play.look(day)
            if day == RETRAIN_DAY:
                shadowed = play.retrain(day)
                # Followed within five seconds, by every replica.
                time.sleep(8)
            if shadowed and not promoted and day > RETRAIN_DAY:
                promoted = play.settle(day)
                if promoted:
                    wait(lambda: served(stand) != "1", 30, "the new champion in service")
        time.sleep(2)


def by_day(state: Path, story: Story) -> list[dict[str, Any]]:
    """Return labelled quality by day, of what was answered and of the shadow."""
    frame = journal.labelled(state, TASK)
    frame = frame.assign(day=((frame["event_time"] - story.start) / pd.Timedelta(days=1)).astype(int))
    found = []
    for day, mine in frame.groupby("day"):
        known = mine[mine["truth"].notna()]
        right = (known["threat_type"] == known["truth"]).to_numpy(dtype=float)
        half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / max(len(right), 1)) if len(right) else np.nan
        beside = known[known["shadow_threat_type"].notna()]
        versions = [int(v) for v in sorted(mine["version"].unique())]
        found.append(
            {
                "day": int(day) + 1, "answers": len(mine), "labelled": len(known), "versions": versions,
                "alerts": int(mine["alarm"].sum()), "accuracy": float(right.mean()), "half_interval": float(half),
                "shadow_accuracy": float((beside["shadow_threat_type"] == beside["truth"]).mean()) if len(beside) else None,
            }
        )  # fmt: skip
    return found


def mean_of(days: list[dict[str, Any]], first: int, last: int, key: str = "accuracy") -> float:
    chosen = [(d[key], d["labelled"]) for d in days if first <= d["day"] <= last and d[key] is not None]
    return float(np.average([v for v, _ in chosen], weights=[w for _, w in chosen])) if chosen else float("nan")


def picture(days: list[dict[str, Any]], story: Story) -> Figure:
    """Draw labelled quality by day with what happened."""
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    when = [story.start.tz_localize(None) + pd.Timedelta(days=d["day"] - 0.5) for d in days]
    low = [d["accuracy"] - d["half_interval"] for d in days]
    high = [d["accuracy"] + d["half_interval"] for d in days]
    axes.fill_between(when, low, high, color="#2463b0", alpha=0.18, linewidth=0, label="95 % interval")
    axes.plot(when, [d["accuracy"] for d in days], "o-", color="#2463b0", markersize=4, label="what was answered")
    shadow = [(w, d["shadow_accuracy"]) for w, d in zip(when, days, strict=True) if d["shadow_accuracy"] is not None]
    if shadow:
        axes.plot(
            *zip(*shadow, strict=True),
            "s--",
            color="#d9701a",
            markersize=4,
            label="what the shadow would have answered",
        )
    bottom, top = min(low) - 0.03, min(1.0, max(high) + 0.09)
    for event in story.events:
        if event["what"] in ("drift", "retraining", "promotion"):
            at = story.start.tz_localize(None) + pd.Timedelta(days=event["day"])
            axes.axvline(at, color="#b3261e" if event["what"] == "drift" else "#12733f", linestyle=":", linewidth=1.4)
            axes.text(at, top, f" {event['what']}", fontsize=9, va="top", color="#1d2733")
    axes.set_ylim(bottom, top)
    axes.set_ylabel("share of right answers, by day")
    axes.set_title("Four weeks of threat detection: labelled quality", loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


STYLE = (
    "body{font:16px/1.5 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;color:#1d2733;max-width:1080px;margin:0 auto;padding:28px 24px}"
    "h1{font-size:1.75rem;margin:0 0 .2rem}h2{font-size:1.25rem;margin:2rem 0 .4rem;padding-top:1rem;border-top:2px solid #dde3ea}"
    ".soft{color:#5a6878;font-size:.92rem}.card{background:#f6f8fa;border:1px solid #dde3ea;border-top:5px solid #2463b0;"
    "border-radius:6px;padding:8px 16px;margin:1.2rem 0}"
    ".card p{font-size:1.08rem;font-weight:600;margin:.5rem 0}table{border-collapse:collapse;font-size:.9rem;width:100%}"
    "th,td{text-align:left;padding:.28rem .6rem;border-bottom:1px solid #dde3ea;vertical-align:top}th{color:#5a6878}img{width:100%}.n{text-align:right}"
)


def summary(days: list[dict[str, Any]], story: Story) -> list[str]:
    """Return what the four weeks come to."""
    promoted = next((e["day"] for e in story.events if e["what"] == "promotion"), None)
    said = [
        f"{sum(d['answers'] for d in days):,} answers in four weeks, {sum(d['labelled'] for d in days):,} of them labelled later.",
        f"Before the drift {mean_of(days, 1, DRIFT_DAY):.1%} of the labelled answers were right, after it "
        f"{mean_of(days, DRIFT_DAY + 1, int(promoted or DAYS)):.1%}.",
    ]
    if promoted is not None and promoted < DAYS:
        said.append(f"Since the promotion on day {promoted:g} it is {mean_of(days, int(promoted) + 1, DAYS):.1%}.")
    else:
        said.append("No version was promoted within the four weeks.")
    return said


def write(out: Path, content: dict[str, Any], figure: Figure, replayed: dict[str, Any]) -> None:
    """Write picture, ``report.json`` and ``report.html``."""
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "report.png", dpi=110)
    files.write_json(out / "report.json", content)
    image = base64.b64encode((out / "report.png").read_bytes()).decode()
    events = "".join(
        f"<tr><td>{e['day']:g}</td><td>{html.escape(e['what'])}</td><td>{html.escape(e['words'])}</td></tr>"
        for e in content["events"]
    )
    days = "".join(
        f"<tr><td>{d['day']}</td><td>{', '.join(map(str, d['versions']))}</td><td class=n>{d['answers']}</td><td class=n>{d['labelled']}</td>"
        f"<td class=n>{d['accuracy']:.3f} ± {d['half_interval']:.3f}</td>"
        f"<td class=n>{'–' if d['shadow_accuracy'] is None else format(d['shadow_accuracy'], '.3f')}</td><td class=n>{d['alerts']}</td></tr>"
        for d in content["days"]
    )
    versions = "".join(
        f"<tr><td>{v['version']}</td><td class=n>{v['alerts']}</td><td class=n>{v.get('missed', '–')}</td>"
        f"<td class=n>{v.get('false_alarms', '–')}</td><td class=n>{v.get('accuracy') or 0:.3f}</td><td class=n>{v.get('cost', '–')}</td></tr>"
        for v in replayed["versions"]
    )
    card = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in content["summary"])
    files.write_text(
        out / "report.html",
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Day two</title><style>{STYLE}</style></head><body>'
        f"<h1>Day two: four weeks after the promotion</h1><p class=soft>Synthetic traffic against the real service, played in "
        f"{content['seconds'] / 60:.1f} minutes by <code>make day-two</code></p><div class=card>{card}</div>"
        f'<img alt="labelled quality by day" src="data:image/png;base64,{image}">'
        f"<h2>What happened</h2><table><tr><th>day</th><th>what</th><th></th></tr>{events}</table>"
        f"<h2>Replay of the last two weeks</h2><table><tr><th>version</th><th class=n>alerts</th><th class=n>attacks missed</th>"
        f"<th class=n>false alarms</th><th class=n>accuracy</th><th class=n>cost</th></tr>{versions}</table>"
        f"<h2>By day</h2><table><tr><th>day</th><th>answered by version</th><th class=n>answers</th><th class=n>labelled</th>"
        f"<th class=n>right</th><th class=n>shadow right</th><th class=n>alarms</th></tr>{days}</table></body></html>\n",
    )


def main() -> int:
    """Play the four weeks and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "day-two")
    parser.add_argument("--rows", type=int, default=240, help="rows of a day")
    parser.add_argument("--trained-on", type=int, default=5000, help="rows that the first champion learns from")
    parser.add_argument("--keep", type=Path, help="folder for registry, state and reports; by default a temporary one")
    options = parser.parse_args()
    start = (pd.Timestamp.now("UTC") - pd.Timedelta(days=DAYS)).floor("D")
    work = (options.keep or Path(tempfile.mkdtemp(prefix="aiops-day-two-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    story = Story(start)
    learned, live = world(start, options.rows, options.trained_on)
    acting = Play(work, story)
    try:
        acting.train(learned)
        play(acting, live)
        os.environ |= {k: acting.environment[k] for k in ("MLFLOW_TRACKING_URI", "AIOPS_STATE_DIR", "AIOPS_HOME")}
        since, until = (str(start + pd.Timedelta(days=d)) for d in (DRIFT_DAY, DAYS))
        replayed = {"versions": []}
        if any(e["what"] == "retraining" and "version None" not in e["words"] for e in story.events):
            acting.aiops("replay", since, until, "--task", TASK, "--versions", "1,2", "--out", str(work / "replay"))
            replayed = json.loads((work / "replay" / "report.json").read_text())
            best = min(replayed["versions"], key=lambda v: v["cost"])["version"]
            story.tell(DAYS, "replay", f"of the last two weeks: by cost, version {best} is ahead")
        days = by_day(acting.state, story)
        content = {
            "schema_version": 1,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": time.monotonic() - story.began,
            "options": {"rows": options.rows, "trained_on": options.trained_on},
            "summary": summary(days, story),
            "events": story.events,
            "looks": story.looks,
            "days": days,
            "replay": replayed["versions"],
        }
        write(options.out, content, picture(days, story), replayed)
    finally:
        if options.keep is None:
            shutil.rmtree(work, ignore_errors=True)
    print("\n".join([*content["summary"], f"report: {options.out / 'report.html'}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
