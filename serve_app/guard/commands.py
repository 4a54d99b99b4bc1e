"""What ``aiops keys`` and ``aiops audit`` run: the keys file and the audit log of this machine's state folder."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aiops_core import settings
from aiops_core.errors import AiopsError, UsageError
from aiops_core.redact import redacted
from serve_app.guard import audit, keys

__all__ = ["main"]

#: Characters of a result that are kept.
MOST = 500


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns
    -------
    int
        0 done, 1 if the audit log is broken, 2 for a mistake of the user (one sentence on standard error).
    """
    options = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except audit.Broken as error:
        print(error, file=sys.stderr)
        return 1
    except AiopsError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or 'the state folder'}: {error.strerror}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aiops")
    groups = parser.add_subparsers(required=True, metavar="keys|audit")
    group = groups.add_parser(
        "keys", description="Keys of the HTTP service; a running service follows within a second."
    )
    commands = group.add_subparsers(required=True, metavar="add|list|revoke|rotate")
    add = commands.add_parser("add", help="make a key and print it, once, as the last line")
    add.add_argument("name", help="who will hold it")
    add.add_argument("--scope", required=True, help="comma separated: read, predict, operate; none includes another")
    add.add_argument("--rate", type=float, help="requests per second (default: no limit)")
    add.add_argument("--burst", type=float, help="requests at once (default: twice the rate)")
    add.set_defaults(command=_add)
    commands.add_parser("list", help="show names, scopes and rates").set_defaults(command=_list)
    for name, words, run in (
        ("revoke", "take a key away", _revoke),
        ("rotate", "replace a key by a new one, which is printed as the last line; the old one ends", _rotate),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("name")
        command.set_defaults(command=run)
    group = groups.add_parser("audit", description="The audit log of the HTTP service.")
    commands = group.add_subparsers(required=True, metavar="verify|show")
    verify = commands.add_parser("verify", help="say whether the log is intact, or name the first broken line")
    show = commands.add_parser("show", help="print the last entries")
    show.add_argument("--last", type=int, default=20, metavar="N")
    for command, run in ((verify, _verify), (show, _show)):
        command.add_argument("file", nargs="?", type=Path, help="default: the one of the state folder")
        command.set_defaults(command=run)
    # What the library's own commands say about themselves, see `aiops_core.audited`: not for people.
    commands = groups.add_parser("record").add_subparsers(required=True)
    begin = commands.add_parser("begin")
    begin.add_argument("route")
    begin.add_argument("what", type=json.loads)
    begin.set_defaults(command=_begin)
    end = commands.add_parser("end")
    end.add_argument("event")
    end.add_argument("phase", choices=["done", "failed"])
    end.add_argument("result")
    end.set_defaults(command=_end)
    return parser


def _begun(log: audit.Audit, route: str, what: dict[str, Any]) -> str:
    return log.begin(
        who=f"{_user()} (shell)", scope=None, address=None, method=None, route=route, what=what, request_id=None
    )


def _begin(options: argparse.Namespace) -> int:
    print(_begun(audit.Audit(settings.load().state_dir / audit.NAME), options.route, options.what))
    return 0


def _end(options: argparse.Namespace) -> int:
    line = {"event": options.event, "status": None, "result": redacted(options.result)[:MOST] or None}
    # Appended at once: nobody is left to try it again later.
    audit.append(settings.load().state_dir / audit.NAME, {"time": audit.now(), "phase": options.phase, **line})
    return 0


def _audited(what: str, name: str, act: Callable[[Path], str | None], **more: Any) -> str | None:
    """Change the keys file, and say so in the audit log before and after."""
    state = settings.load().state_dir
    log = audit.Audit(state / audit.NAME)
    try:
        event = _begun(log, f"keys {what}", {"name": name, **more})
    except OSError as error:
        raise UsageError(f"nothing was done, the audit log cannot be written: {error}") from error
    try:
        key = act(keys.location(state))
    except BaseException as error:
        log.end(event, "failed", status=None, result=str(error))
        raise
    log.end(event, "done", status=None, result=None)
    return key


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # Containers run as users without a name.
        return f"user {os.getuid()}"


def _add(options: argparse.Namespace) -> int:
    scopes = [part.strip() for part in options.scope.split(",") if part.strip()]

    def act(path: Path) -> str:
        return keys.add(path, options.name, scopes, options.rate, options.burst)

    key = _audited("add", options.name, act, scopes=scopes, rate=options.rate, burst=options.burst)
    print(f"key '{options.name}' may {', '.join(scopes)}; it is shown only now:", file=sys.stderr)
    print(key)
    return 0


def _list(options: argparse.Namespace) -> int:
    path = keys.location(settings.load().state_dir)
    try:
        found = keys.read(path)
    except FileNotFoundError:
        raise UsageError(f"there is no keys file {path}: aiops keys add NAME --scope read,predict,operate") from None
    for key in found:
        rate = "no limit" if key.rate is None else f"{key.rate:g}/s, {key.burst:g} at once"
        print(f"{key.name:24} {','.join(key.scopes):24} {rate:24} {key.created}")
    if not found:
        print("no key is left: nobody gets in", file=sys.stderr)
    return 0


def _revoke(options: argparse.Namespace) -> int:
    _audited("revoke", options.name, lambda path: keys.revoke(path, options.name))
    print(f"key '{options.name}' is revoked")
    return 0


def _rotate(options: argparse.Namespace) -> int:
    key = _audited("rotate", options.name, lambda path: keys.rotate(path, options.name))
    print(f"the old key '{options.name}' has ended; the new one is shown only now:", file=sys.stderr)
    print(key)
    return 0


def _file(options: argparse.Namespace) -> Path:
    path: Path = options.file or settings.load().state_dir / audit.NAME
    if not path.is_file():
        raise UsageError(f"there is no audit log {path}")
    return path


def _verify(options: argparse.Namespace) -> int:
    lines, digest = audit.verify(_file(options))
    print(f"intact: {lines} lines, the last one has sha256 {digest}")
    return 0


def _show(options: argparse.Namespace) -> int:
    if options.last < 1:
        raise UsageError("--last must be at least 1")
    for entry in audit.last(_file(options), options.last):
        print(json.dumps({name: value for name, value in entry.items() if name != "previous"}))
    return 0
