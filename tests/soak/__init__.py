"""Random cases against the contract, for as long as one likes: ``python tests/soak/fuzz.py``."""
