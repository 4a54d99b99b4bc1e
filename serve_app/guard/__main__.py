"""``python -m serve_app.guard keys|audit …``, which is ``aiops keys|audit …``."""

import sys

from serve_app.guard.commands import main

if __name__ == "__main__":
    sys.exit(main())
