"""The commands ``aiops backup`` and ``aiops restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def backup(target: Annotated[Path, typer.Argument(metavar="FILE", help="archive to write (.tar.gz)")]) -> None:
    """Write registry, state and keys into one archive, also while the service runs. Keep it like a password."""
    from aiops_core.backup.create import backup as create

    manifest = create(target)
    for sentence in manifest["left_out"]:
        typer.echo(f"not in it: {sentence}")
    typer.echo(f"{len(manifest['members'])} files: {target}")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="archive of aiops backup")],
    force: Annotated[bool, typer.Option("--force", help="set aside what is there")] = False,
) -> None:
    """Bring back registry, state and keys from an archive, whose every file is checked first."""
    from aiops_core.backup.restore import restore as bring_back

    manifest, aside = bring_back(source, force=force)
    for path in aside:
        typer.echo(f"set aside: {path}")
    typer.echo(f"{len(manifest['members'])} files restored from {source}")
