"""``python -m serve_app``: what ``aiops serve`` executes."""

from __future__ import annotations

import sys

from serve_app.run import main

sys.exit(main())
