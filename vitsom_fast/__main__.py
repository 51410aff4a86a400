"""``python -m vitsom_fast``: the command line."""

import sys

from vitsom_fast_command import main

if __name__ == "__main__":
    sys.exit(main())
