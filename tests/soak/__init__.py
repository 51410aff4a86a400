"""Long searches for faults: random cases against the contract (``fuzz.py``), searches with and without pruning
(``exactness.py``), and training that is killed and resumed (``kill_and_resume.py``); each is ``python tests/soak/NAME.py``."""
