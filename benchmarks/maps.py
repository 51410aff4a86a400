"""``python -m benchmarks.maps``: the search on a collection of maps, from the room of the studies."""

import sys

from benchmarks.studies.maps import main

if __name__ == "__main__":
    sys.exit(main())
