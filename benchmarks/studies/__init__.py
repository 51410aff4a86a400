"""Beyond single operations: growth with the map, a whole training run, and the report of what was recorded."""
