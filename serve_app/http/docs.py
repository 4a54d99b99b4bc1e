"""The documentation page: one HTML file drawn from the OpenAPI description, without a script or a font from elsewhere."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["HEADERS", "page"]

#: Nothing is loaded from anywhere, and the page says so to the browser.
HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"}

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:62rem;padding:1.5rem;color:#1b1f24;background:#fff}
h1{font-size:1.6rem;margin:0 0 .3rem}h2{font-size:1.15rem;margin:2rem 0 .5rem;border-bottom:1px solid #d8dee4}
details{border:1px solid #d8dee4;border-radius:6px;margin:.45rem 0;padding:.4rem .8rem}summary{cursor:pointer}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#f6f8fa;border-radius:6px;overflow:auto;padding:.7rem}
.m{border-radius:4px;color:#fff;display:inline-block;font-weight:600;margin-right:.5rem;min-width:4rem;text-align:center}
.get{background:#1a7f37}.post{background:#0969da}.delete{background:#cf222e}
table{border-collapse:collapse;margin:.5rem 0;width:100%}td,th{border-top:1px solid #d8dee4;padding:.25rem .5rem;text-align:left;
vertical-align:top}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}pre{background:#161b22}
details,td,th,h2{border-color:#30363d}a{color:#58a6ff}}
"""


def _text(text: str) -> str:
    """Return HTML of a description, what stands in backticks as code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))


def _resolve(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    found: Mapping[str, Any] = parts[reference.rsplit("/", 1)[1]] if reference else schema
    return found


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(s) for s in schema["anyOf"]))
    kind = schema.get("type", "any")
    names = [kind] if isinstance(kind, str) else list(kind)
    if "array" in names and isinstance(schema.get("items"), dict):
        return f"array of {_type(schema['items'])}"
    return " or ".join(names)


def _range(schema: Mapping[str, Any]) -> str:
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "more than",
        "maximum": "at most",
        "minLength": "length at least",
        "maxLength": "length at most",
        "minItems": "items at least",
        "maxItems": "items at most",
        "pattern": "pattern",
    }
    # The bounds of a field that may be null stand in a branch.
    bounds = {key: part[key] for part in (schema, *schema.get("anyOf", [])) for key in words if key in part}
    return ", ".join(f"{words[key]} {_bound(bound)}" for key, bound in bounds.items() if abs_ok(bound))


def _bound(bound: Any) -> str:
    return f"{bound:,.10g}" if isinstance(bound, (int, float)) else str(bound)


def abs_ok(bound: Any) -> bool:
    """Say whether a bound is worth showing: 1e15 only keeps numbers within float32."""
    return not isinstance(bound, (int, float)) or abs(bound) < 1e15


def _table(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{html.escape(name)}</code>{' *' if name in required else ''}</td>"
        f"<td>{html.escape(_type(part))}</td><td>{html.escape(_range(part))}</td>"
        f"<td>{_text(part.get('description', ''))}</td></tr>"
        for name, part in schema.get("properties", {}).items()
    )
    return f"<table><tr><th>field</th><th>type</th><th>range</th><th>meaning</th></tr>{rows}</table>" if rows else ""


def _operation(path: str, method: str, entry: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    inside = f"<p>{_text(entry.get('description', ''))}</p>"
    body = entry.get("requestBody", {}).get("content", {}).get("application/json", {})
    example = body.get("example")
    if example is None and body.get("examples"):
        example = body["examples"]["single"]["value"]
    url = f"http://127.0.0.1:8100{path}"
    curl = f"curl {url}" if method == "get" else f"curl -X {method.upper()} {url}"
    if example is not None:
        text = json.dumps(example)
        curl = f"curl {url} \\\n  -H 'Content-Type: application/json' \\\n  -d '{text}'"
    inside += f"<pre>{html.escape(curl)}</pre>"
    schema = body.get("schema", {})
    for branch in schema.get("anyOf", [schema] if schema else []):
        resolved = _resolve(branch, parts)
        inside += (
            f"<p><b>{html.escape(str(resolved.get('title', 'Body')))}</b> {_text(resolved.get('description', ''))}</p>"
        )
        inside += _table(resolved)
    answers = "".join(
        f"<tr><td>{code}</td><td>{_text(answer['description'])}</td></tr>"
        for code, answer in entry["responses"].items()
    )
    inside += f"<table><tr><th>status</th><th>meaning</th></tr>{answers}</table>"
    return (
        f"<details><summary><span class='m {method}'>{method.upper()}</span><code>{html.escape(path)}</code> "
        f"{html.escape(entry.get('summary', ''))}</summary>{inside}</details>"
    )


def page(description: Mapping[str, Any]) -> bytes:
    """Render the page.

    Parameters
    ----------
    description : mapping
        OpenAPI, as from `serve_app.http.openapi.describe`.
    """
    parts = description["components"]["schemas"]
    groups: dict[str, str] = {}
    for path, entry in description["paths"].items():
        for method in ("get", "post", "delete"):
            if method in entry:
                operation = entry[method]
                tag = operation["tags"][0]
                groups[tag] = groups.get(tag, "") + _operation(path, method, operation, parts)
    order = ["predictions", "models", "training", "remediation", "service"]
    sections = "".join(f"<h2>{tag.capitalize()}</h2>{groups[tag]}" for tag in order if tag in groups)
    models = "".join(
        f"<h2>{name}</h2><p>{_text(parts[name].get('description', ''))}</p>{_table(parts[name])}"
        for name in ("Snapshot", "FailureAnswer", "ThreatAnswer", "CapacityAnswer", "AnomalyAnswer", "ProblemDetails")
        if name in parts
    )
    info = description["info"]
    text = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(info['title'])}</title><style>{_STYLE}</style></head><body><h1>{html.escape(info['title'])}</h1>"
        f"<p>{_text(info['description'])} Machine-readable: <a href='schema'>OpenAPI 3.1</a>.</p>{sections}{models}</body></html>"
    )
    return text.encode()
