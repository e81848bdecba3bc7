"""``python -m rotograd_cli`` is the console script ``rotograd``."""

import sys

from rotograd_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
