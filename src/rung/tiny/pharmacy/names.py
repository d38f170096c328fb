"""Generates invented drug names, from which a model learns to copy any name instead of memorising the real ones."""

from functools import lru_cache
from random import Random

from rung.tiny.pharmacy.formulary import SPLITS, drug_names

_ONSETS = str.split("b br c cl d dr f fl g gl h j k l m n p pl pr qu r s st t tr v w z")
_VOWELS = str.split("a e i o u a e i o ia eo")
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "x"]
_ENDINGS = str.split("ine ol ide ate in one am ex ra pril zole tan stat cillin mab ix or ic um il")
BRAND_SHARE = 0.4


@lru_cache(maxsize=1)
def _real() -> frozenset[str]:
    return frozenset(name.lower() for split in SPLITS for name in drug_names(split))


def invent(random: Random) -> str:
    """A pronounceable random name of 5 to 12 letters that contains no real drug name; 40% are capitalised."""
    while True:
        syllables = [
            random.choice(_ONSETS) + random.choice(_VOWELS) + random.choice(_CODAS) for _ in range(random.randint(1, 2))
        ]
        name = "".join(syllables) + random.choice(_ONSETS) + random.choice(_ENDINGS)
        if 5 <= len(name) <= 12 and not any(real in name for real in _real()):
            return name.capitalize() if random.random() < BRAND_SHARE else name
