"""``python -m ftlab`` is the command ``ftlab``, for launchers that start modules."""

import sys

from ftlab.cli import main

sys.exit(main())
