"""A map of texts by their embeddings.

python examples/texts.py [--out FOLDER]

The texts are made, of words of six subjects, and their embeddings are what scikit-learn makes of words alone: counts, weighted
and cut down to 32 directions. With those of a language model in their place, rows of (texts, features), all else stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from vitsom_fast import SOM, plotting

SUBJECTS = {
    "sea": "wave tide harbour sail anchor reef gull current shore vessel storm lighthouse",
    "kitchen": "flour oven butter knife simmer recipe onion spice dough plate broth pepper",
    "music": "melody rhythm violin chord tempo choir tune drum harmony concert string scale",
    "garden": "soil seed prune blossom weed compost rake tulip hedge root petal lawn",
    "law": "court judge clause contract appeal verdict witness statute plaintiff evidence treaty oath",
    "machine": "gear piston valve torque bearing shaft lever engine bolt pump turbine gauge",
}
COMMON = ["the", "small", "old", "new", "first", "great", "other", "many", "good", "long"]


def texts(count: int) -> tuple[list[str], np.ndarray]:
    """Texts of 30 words, half of them of one subject and some of a second, and the first subject of each."""
    random = np.random.default_rng(0)
    words = [each.split() for each in SUBJECTS.values()]
    subject = random.integers(len(words), size=count)
    second = random.integers(len(words), size=count)
    made = [
        " ".join([*random.choice(words[a], 15), *random.choice(words[b], 5), *random.choice(COMMON, 10)])
        for a, b in zip(subject, second, strict=True)
    ]
    return made, subject


def main(out: Path, count: int = 2000, side: int = 12) -> float:
    """Writes subjects.png; the share of texts on units where most are of their subject."""
    written, subject = texts(count)
    counts = TfidfVectorizer().fit_transform(written)
    z = TruncatedSVD(min(32, counts.shape[1] - 1), random_state=0).fit_transform(counts)  # [count, 32]
    z -= z.mean(axis=0)  # what all texts have in common tells none apart, and a cosine is of the angle at the origin
    som = SOM(side, side, metric="cosine", topology="hexagonal").fit(z)
    out.mkdir(parents=True, exist_ok=True)
    plotting.plot_hit_map(som, z, labels=np.array(list(SUBJECTS))[subject]).savefig(out / "subjects.png")
    of_unit = np.zeros((side * side, len(SUBJECTS)))
    np.add.at(of_unit, (som.labels_, subject), 1)
    return float(of_unit.max(axis=1).sum() / count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/texts"))
    options = parser.parse_args()
    print(
        f"{main(options.out):.3f} of the texts are where most are of their subject; a picture: {options.out / 'subjects.png'}"
    )
