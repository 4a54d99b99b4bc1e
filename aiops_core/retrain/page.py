"""The report of a retraining: what it began from, what came of it, what is next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from aiops_core import files
from aiops_core.facts import FACTS

__all__ = ["sentences", "write"]

_STYLE = (
    "body{font:16px/1.5 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;color:#1d2733;max-width:860px;margin:0 auto;"
    "padding:28px 24px}h1{font-size:1.6rem;margin:0 0 .2rem}.soft{color:#5a6878;font-size:.92rem}"
    ".card{background:#f6f8fa;border:1px solid #dde3ea;border-top:5px solid #2463b0;border-radius:6px;padding:8px 16px}"
    ".failed{border-top-color:#b3261e}.card p{font-weight:600;margin:.5rem 0}"
    "table{border-collapse:collapse;font-size:.9rem;margin:1rem 0;width:100%}th,td{text-align:left;padding:.28rem .6rem;"
    "border-bottom:1px solid #dde3ea;vertical-align:top}th{color:#5a6878}"
)


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``retraining.json`` and ``retraining.html`` into the folder of a run's report."""
    files.write_json(folder / "retraining.json", content)
    state = content["state"]
    facts = [
        ("state", state),
        ("started by", content["trigger"]),
        ("began", _stamp(content.get("began"))),
        ("ended", _stamp(content.get("ended"))),
        ("champion", f"version {content['champion']}"),
        ("original source", content.get("source", "–")),
        *[(f"rows of {table}", _rows(rows)) for table, rows in content.get("rows", {}).items()],
        ("first parameters tried", ", ".join(f"{k} = {v}" for k, v in content.get("start", {}).items()) or "–"),
        ("labels known", f"{content['labels']:,}"),
        ("policy", content["options"]["policy"]),
    ]
    table = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts)
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(content))
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in content.get("reasons", []))
    link = '<p><a href="report.html">The report of the training</a></p>' if (folder / "report.html").is_file() else ""
    title = f"Retraining: {FACTS[content['task']].title.lower()}"
    files.write_text(
        folder / "retraining.html",
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f'</head><body><h1>{escape(title)}</h1><div class="card {escape(state)}">{said}</div><table>{table}</table>'
        f"{'<h2>What the gate said</h2><ul>' + reasons + '</ul>' if reasons else ''}{link}</body></html>\n",
    )


def sentences(content: Mapping[str, Any]) -> list[str]:
    """Return what came of a retraining, in words."""
    if content["state"] == "failed":
        return [f"It failed: {content.get('error')}", f"Version {content['champion']} is in service as before."]
    if content["state"] != "succeeded":
        return ["It is under way."]
    if not content.get("version"):
        return [f"The gate refused it: version {content['champion']} stays."]
    said = [f"Version {content['version']} is registered and answers in the shadow of version {content['champion']}."]
    settled = content.get("settled") or {}
    if settled.get("promoted"):
        return [f"Version {content['version']} was promoted: {settled['words']}"]
    if settled:
        said.append(settled["words"])
    if content["options"]["policy"] == "never":
        said.append(f"It is promoted by an operator only, after: aiops models judge {content['task']}")
    else:
        said.append("It is promoted when the verdict on live traffic is that it is better.")
    return said


def _stamp(seconds: float | None) -> str:
    return "–" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _rows(rows: Mapping[str, int]) -> str:
    masked = f", {rows['masked']:,} of them masked" if rows["masked"] else ""
    return f"{rows['original']:,} of the original source, {rows['journal']:,} of the journal{masked}"
