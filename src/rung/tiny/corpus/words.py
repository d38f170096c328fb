"""Words, invented names and random strings that the documents are made of."""

from random import Random

NOUNS = tuple(
    """apple anchor arrow badge barrel basket bell belt bench blanket board boat bottle bowl box branch brick bridge broom
    brush bucket button cabin cable cage candle canoe card carpet chain chair chest clock cloth coat coin comb compass cork
    crate cup curtain desk door drawer drum engine envelope fence flag flute fork frame garden gate glass globe glove guitar
    hammer hat helmet hinge horn jacket jar kettle key kite knife ladder lamp lantern leaf letter lock magnet map mask medal
    mirror mug nail needle nest net oven paddle page paint pan paper pencil piano picture pillow pipe plate pocket pole
    postcard pump purse radio rail ring rope ruler saddle sail scarf screen seed shelf shell shield ship shoe shovel sign
    sink sock spoon spring stamp statue stone stool stove string suitcase sword table tent ticket tile torch towel tower
    toy train tray tree trumpet tunnel umbrella vase vest violin wagon wallet watch wheel whistle window wire wool""".split()
)
ADJECTIVES = tuple(
    """amber bent big black blue bold brass bright broken brown calm clean cold cracked damp dark deep dry dusty empty fast
    flat fresh full green grey heavy hollow hot large late light long loud low narrow new old open orange pale pink plain
    purple quiet red rough round sharp short silver slow small smooth soft square steep striped strong tall thick thin tiny
    warm wet white wide wooden yellow young""".split()
)
VERBS = tuple(
    """bring build buy carry check choose clean close collect count cover cut draw drop fetch file fill find fix fold hang
    hide hold keep label lay lift load lock mark measure mix move open order pack paint pick place plant polish post pull
    push raise read remove rent repair save sell send serve sew share show sign sort stack start stop store sweep tie turn
    wash watch weigh wrap write""".split()
)
PHRASES = tuple(
    """near the door;under the bridge;by the river;in the morning;after lunch;before dark;every Monday;on Fridays;with a smile;
    without noise;at the corner;in two rows;for the guests;for the school;until noon;once a week;every other day;by train;
    on foot;in a blue bag;behind the house;next to the window;when it rains;if the bell rings;as soon as possible;
    with great care;in the shade;on the top shelf;for three weeks;during the summer;every 6 hours;twice a month;
    at sunset;in the left drawer;on the right side;with both hands;with warm water;on an empty table;
    only when asked;as needed for cleaning;if the light is on;for the next 5 days;no more than 3 at a time""".replace("\n", "")
    .replace("    ", "")
    .split(";")
)
FIRST_NAMES = tuple(
    "Ada Ben Carla Dan Eva Finn Gina Hugo Ida Jonas Kara Leo Mia Nils Olga Paul Rosa Sam Tess Uma Vera Will Yara Zoe".split()
)

MEASURES = ("cm", "kg", "m", "l", "mm", "km", "W", "V")
NUMBER_WORDS = {str(i): word for i, word in enumerate("zero one two three four five six seven eight nine ten".split())}

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PLAIN_ONSETS = tuple("b c d f g h k l l m m n n p r r s s t t v x z".split())
_ONSETS = (
    *"b c d f g h j k l m n p q r s t v w x y z".split(),
    *"br bl ch cl cr dr fl fr gl gr ph pl pr qu sc sh sl sp st str sw th tr".split(),
    "",
    "",
)
_VOWELS = (*"aeiou" * 4, "y", "ae", "ai", "ea", "ee", "eu", "ia", "ie", "io", "oi", "oo", "ou", "ua")
_CODAS = (*[""] * 12, *"c d f g k l m n p r s t v x z".split(), "ct", "nt", "rt", "st", "ll", "ss", "ff", "n", "l", "r", "m")


def invented_name(rng: Random) -> str:
    """Pronounceable name of two to five syllables, plain or rich in clusters; a third are capitalised."""
    onsets, vowels = rng.choice(((_PLAIN_ONSETS, "aeiou"), (_ONSETS, _VOWELS)))
    while True:
        syllables = rng.choices((2, 3, 4, 5), (3, 5, 4, 2))[0]
        name = "".join(rng.choice(onsets) + rng.choice(vowels) + rng.choice(_CODAS) for _ in range(syllables))
        if 3 < len(name) < 16:
            return name.capitalize() if rng.random() < 0.3 else name


def random_string(rng: Random, low: int = 3, high: int = 9) -> str:
    """Letters and digits without a pattern."""
    letters = rng.choice((_LETTERS, _LETTERS, _LETTERS.upper(), _LETTERS + "0123456789", "0123456789"))
    return "".join(rng.choices(letters, k=rng.randint(low, high)))


def random_code(rng: Random) -> str:
    """Code of two or three letters, as in shorthand."""
    return "".join(rng.choices(_LETTERS, k=rng.choice((2, 2, 3))))


def number(rng: Random) -> str:
    """Whole number, decimal, fraction or range, as people write amounts."""
    kind = rng.random()
    if kind < 0.6:
        return str(rng.choice((rng.randint(1, 12), rng.randint(1, 99), 25 * rng.randint(1, 40))))
    if kind < 0.75:
        return f"{rng.randint(0, 9)}.{rng.choice((5, 5, 25, 75, 1, 2, 4))}"
    if kind < 0.85:
        return rng.choice(("1/2", "1/4", "3/4", "1 1/2", "2 1/2"))
    return f"{(low := rng.randint(1, 8))}-{low + rng.randint(1, 3)}"


def thing(rng: Random) -> str:
    """Noun, described noun, invented name or random string."""
    kind = rng.random()
    if kind < 0.25:
        return rng.choice(NOUNS)
    if kind < 0.4:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if kind < 0.85:
        return invented_name(rng)
    return random_string(rng)


def typo(rng: Random, word: str) -> str:
    """`word` with one letter left out, doubled or swapped with the next."""
    at = rng.randrange(len(word) - 1)
    kind = rng.choice(("drop", "double", "swap"))
    if kind == "drop":
        return word[:at] + word[at + 1 :]
    if kind == "double":
        return word[: at + 1] + word[at:]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def plural(noun: str) -> str:
    """The noun in the plural.

    >>> plural("box"), plural("copy"), plural("tray")
    ('boxes', 'copies', 'trays')
    """
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")
