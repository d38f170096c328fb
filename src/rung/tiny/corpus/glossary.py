"""Glossaries in prose and sentences as in leaflets: what words mean, never a prescription and its direction."""

from __future__ import annotations

from random import Random
from typing import Literal

from rung.tiny.corpus import words
from rung.tiny.corpus.rules import Rule

Glossary = Literal["full", "without_task"]

# Each meaning in several wordings, so that no hand's wording is the glossary's.
TASK = {
    "po": ("by mouth", "through the mouth"),
    "sl": ("under the tongue",),
    "pr": ("in the rectum", "rectally"),
    "pv": ("in the vagina", "vaginally"),
    "im": ("into a muscle",),
    "sc": ("under the skin",),
    "sq": ("under the skin",),
    "subq": ("under the skin",),
    "inh": ("inhaled", "by inhaling"),
    "neb": ("through a nebulizer", "with a nebulizer"),
    "top": ("on the skin",),
    "od": ("in the right eye",),
    "os": ("in the left eye",),
    "ou": ("in both eyes", "in each eye"),
    "ad": ("in the right ear",),
    "as": ("in the left ear",),
    "au": ("in both ears", "in each ear"),
    "nas": ("in each nostril", "in the nose"),
    "vag": ("in the vagina", "vaginally"),
    "qd": ("once a day", "1 time a day", "every day", "daily"),
    "qday": ("once a day", "every day"),
    "daily": ("once a day", "every day"),
    "bid": ("twice a day", "2 times a day", "two times daily"),
    "tid": ("3 times a day", "three times daily"),
    "qid": ("4 times a day", "four times daily"),
    "qod": ("every other day", "every second day"),
    "qam": ("every morning", "in the morning"),
    "qpm": ("every evening", "in the evening"),
    "qhs": ("every night at bedtime", "at bedtime"),
    "hs": ("at bedtime",),
    "qwk": ("once a week", "every week"),
    "qw": ("once a week", "every week"),
    "biw": ("twice a week", "2 times a week"),
    "tiw": ("3 times a week",),
    "qmo": ("once a month",),
    "q4h": ("every 4 hours",),
    "q6h": ("every 6 hours",),
    "q8h": ("every 8 hours",),
    "q12h": ("every 12 hours",),
    "q3d": ("every 3 days",),
    "q72h": ("every 72 hours",),
    "q4-6h": ("every 4 to 6 hours",),
    "prn": ("as needed", "when needed", "only if needed"),
    "ac": ("before meals", "before food"),
    "pc": ("after meals", "after food"),
    "cc": ("with meals", "with food"),
    "c": ("with",),
    "c food": ("with food",),
    "s": ("without",),
    "w/": ("with",),
    "w/o": ("without",),
    "x": ("for", "times"),
    "x5d": ("for 5 days",),
    "x7d": ("for 7 days",),
    "x10d": ("for 10 days",),
    "x2wk": ("for 2 weeks",),
    "ud": ("as directed",),
    "utd": ("as directed",),
    "stat": ("right away", "at once"),
    "tab": ("tablet",),
    "tabs": ("tablets",),
    "t": ("tablet",),
    "cap": ("capsule",),
    "caps": ("capsules",),
    "gtt": ("drop",),
    "gtts": ("drops",),
    "tsp": ("teaspoon",),
    "tbsp": ("tablespoon",),
    "ml": ("milliliter", "milliliters"),
    "mg": ("milligram", "milligrams"),
    "mcg": ("microgram", "micrograms"),
    "g": ("gram", "grams"),
    "iu": ("international units",),
    "u": ("units",),
    "puff": ("puff of an inhaler",),
    "supp": ("suppository",),
    "oint": ("ointment",),
    "crm": ("cream",),
    "susp": ("suspension",),
    "soln": ("solution",),
    "ung": ("ointment",),
    "patch": ("patch for the skin",),
    "aa": ("affected area",),
    "n/v": ("nausea and vomiting",),
    "ha": ("headache",),
    "sob": ("shortness of breath",),
    "htn": ("high blood pressure",),
    "max": ("no more than", "at most"),
    "nte": ("not more than", "not to exceed"),
    "appl": ("applicator",),
    "cp": ("chest pain",),
    "anx": ("anxiety",),
    "ss": ("one half",),
    "i": ("one",),
    "ii": ("two",),
    "iii": ("three",),
    "bm": ("bowel movement",),
    "bp": ("blood pressure",),
    "uti": ("urinary tract infection",),
    "gerd": ("acid reflux",),
}
OTHER = {
    "asap": ("as soon as possible",), "eta": ("expected time of arrival",), "rsvp": ("please answer",), "diy": ("do it yourself",),
    "approx": ("about",), "appt": ("appointment",), "dept": ("department",), "est": ("about", "estimated"), "vs": ("against",),
    "hwy": ("highway",), "apt": ("flat", "apartment"), "ave": ("avenue",), "blvd": ("boulevard",), "govt": ("government",),
    "mgr": ("manager",), "asst": ("assistant",), "qty": ("quantity",), "pkg": ("package",), "doz": ("twelve", "a dozen"),
    "yr": ("year",), "nb": ("take note",), "tba": ("to be announced",), "fyi": ("for your information",), "ps": ("an added note",),
    "lb": ("pound",), "oz": ("ounce",), "kph": ("kilometres per hour",), "sq ft": ("square feet",), "rpm": ("turns a minute",),
    "ctn": ("carton",), "bldg": ("building",), "fwd": ("forward",), "incl": ("including",), "excl": ("without",), "misc": ("mixed",),
    "temp": ("temperature",), "vol": ("loudness", "volume"), "no": ("number",), "hq": ("head office",), "gmt": ("London time",),
}  # fmt: skip

_LEAFLETS = (
    ("swallow", "Swallow tablets whole with a glass of water."),
    ("chew", "Chew these tablets before you swallow them."),
    ("crush", "Do not crush or chew capsules."),
    ("shake", "Shake the bottle well before each use."),
    ("food", "Take this medicine with food so that your stomach is not upset."),
    ("empty stomach", "Some medicines work best on an empty stomach, 1 hour before or 2 hours after a meal."),
    ("alcohol", "Do not drink alcohol with this medicine."),
    ("driving", "This medicine may make you sleepy, so do not drive."),
    ("missed dose", "If you miss a dose, do not take two doses at once."),
    ("storage", "Keep all medicines away from children, in a cool and dry place."),
    ("eye drops", "Eye drops are placed inside the lower lid."),
    ("ear drops", "Ear drops are placed in the ear while you lie on your side."),
    ("nasal spray", "Nasal sprays are used in each nostril."),
    ("inhaler", "Inhale slowly, hold your breath, and rinse your mouth after each puff."),
    ("cream", "Apply a thin layer of cream or ointment to the affected area and wash your hands."),
    ("patch", "Put the patch on clean, dry skin and change the place each time."),
    ("suppository", "A suppository is inserted into the rectum and is not swallowed."),
    ("injection", "Insulin is injected under the skin, and some vaccines into a muscle."),
    ("under the tongue", "Let the tablet dissolve under the tongue."),
    ("pain", "Some people need a tablet only as needed for pain or fever."),
    ("as needed", "As needed means only when you have the symptom, such as pain, itching, nausea, cough or anxiety."),
    ("finish", "Take all of an antibiotic until it is finished, even if you feel better."),
    ("maximum", "Do not use more than the highest number of doses in 24 hours."),
    ("bedtime", "Sleeping tablets are taken at bedtime, just before you lie down."),
    ("morning", "Water tablets are best taken in the morning."),
    ("blood pressure", "Tablets for high blood pressure or cholesterol are taken every day for a long time."),
    ("infection", "An infection is often treated for 5, 7, 10 or 14 days."),
    ("measure", "Measure liquid medicine in milliliters with the spoon in the box."),
    ("once daily", "Once daily, one time a day and every day mean the same."),
    ("twice daily", "Twice daily, 2 times a day and two times daily mean the same."),
    ("three times daily", "Three times daily and 3 times a day mean the same."),
    ("hours", "Every 12 hours is two times a day, and every 8 hours is three times a day."),
    ("breathing", "An inhaler helps with wheezing and shortness of breath."),
    ("half", "A tablet with a line can be cut in half."),
    ("weeks", "Some tablets are taken once a week, on the same day of each week."),
    ("allergies", "Tablets for allergies help with itching, sneezing and hives."),
    ("sleep", "Tablets for sleep or anxiety can make you tired the next day."),
    ("constipation", "Drink plenty of water if you have constipation or diarrhea."),
    ("dizziness", "Stand up slowly if you feel dizziness or nausea."),
    ("muscle", "Muscle spasms, cramps and back pain often go with rest."),
)  # fmt: skip


def glossary(rng: Random, which: Glossary) -> Rule:
    """Questions after the meaning of an abbreviation, or after the abbreviation of a meaning."""
    source = OTHER if which == "without_task" or rng.random() < 0.2 else TASK
    form, answer = rng.choice(
        (
            ("What does {0} mean?", "{0} means {1}"),
            ("What does {0} mean?", "{0} means {1}."),
            ("What does {0} stand for?", "It stands for {1}."),
            ("{0}?", "{1}"),
            ("Meaning of {0}", "{1}"),
            ("Explain {0}.", "{0}: {1}"),
            ("How is '{1}' written in short?", "{0}"),
            ("Short for {1}?", "{1} is {0} in short."),
        )
    )
    capitals = rng.random() < 0.15

    def turn() -> tuple[str, str]:
        code = rng.choice(list(source))
        meaning = rng.choice(source[code])
        shown = code.upper() if capitals else code
        return form.format(shown, meaning), answer.format(shown, meaning)

    return Rule(turn, num_turns=(2, 6))


def glossary_list(rng: Random, which: Glossary) -> Rule:
    """Several abbreviations at once, each with its meaning."""
    source = OTHER if which == "without_task" or rng.random() < 0.2 else TASK
    link, between = rng.choice((" = ", " means ", ": ")), rng.choice(("; ", ", ", "\n"))

    def turn() -> tuple[str, str]:
        codes = rng.sample(list(source), rng.randint(2, 4))
        return "Explain " + ", ".join(codes), between.join(f"{c}{link}{rng.choice(source[c])}" for c in codes)

    return Rule(turn, num_turns=(1, 3))


def leaflet(rng: Random) -> Rule:
    """A sentence of advice on a subject, its end, or its words in order; of medicines in general, none named."""
    mode = rng.choice(("about", "about", "end", "repeat"))

    def turn() -> tuple[str, str]:
        about, sentence = rng.choice(_LEAFLETS)
        parts = sentence.split(" ")
        cut = rng.randint(2, max(2, len(parts) - 3))
        if mode == "about":
            return f"A leaflet sentence about {about}", sentence
        if mode == "end":
            return "Go on: " + " ".join(parts[:cut]), " ".join(parts[cut:])
        return f"Repeat after {rng.choice(words.FIRST_NAMES)}: {sentence}", sentence

    return Rule(turn, num_turns=(1, 3))
