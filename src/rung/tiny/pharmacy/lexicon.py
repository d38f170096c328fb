"""The vocabulary of the task: the plain wording of each meaning, its spellings in shorthand, and other wordings.

The keys of the tables are the plain wordings. Both the records of orders and the house style use them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Term:
    """Wordings of one meaning besides the plain one.

    `sigs` are the spellings in shorthand, the most common first; `clinical` is the wording of the clinical styles;
    `also` are further wordings, which the checker accepts although no style uses them. `#` stands for a number.
    """

    sigs: tuple[str, ...]
    clinical: str
    also: tuple[str, ...] = ()


def _term(sigs: str, clinical: str, also: str = "") -> Term:
    return Term(tuple(sigs.split("|")), clinical, tuple(also.split("|")) if also else ())


ROUTES: dict[str, Term] = {
    "by mouth": _term("po|po|by mouth", "orally"),
    "under the tongue": _term("sl|sl|under tongue", "sublingually"),
    "in the rectum": _term("pr|pr|rectally", "rectally", "into the rectum"),
    "in the vagina": _term("pv|vag", "vaginally", "into the vagina"),
    "on the skin": _term("top|to skin", "topically", "to the skin"),
    "in the right eye": _term("od|r eye", "in the right eye", "into the right eye"),
    "in the left eye": _term("os|l eye", "in the left eye", "into the left eye"),
    "in both eyes": _term("ou|both eyes", "in both eyes", "into both eyes|in each eye"),
    "in the right ear": _term("ad|r ear", "in the right ear", "into the right ear"),
    "in the left ear": _term("as|l ear", "in the left ear", "into the left ear"),
    "in both ears": _term("au|both ears", "in both ears", "into both ears|in each ear"),
    "into the lungs": _term("inh|inh|inhaled", "by inhalation"),
    "in each nostril": _term("nas|each nostril", "in each nostril", "into each nostril|in both nostrils"),
    "under the skin": _term("subq|sc", "subcutaneously"),
}

FREQUENCIES: dict[str, Term] = {
    "once a day": _term(
        "qd|qd|daily", "once daily", "daily|once each day|once per day|one time a day|every day|1 time a day"
    ),
    "2 times a day": _term("bid|bid|2x/d", "twice daily", "twice a day|2 times daily|2 times each day|2 times per day"),
    "3 times a day": _term("tid|tid|3x/d", "3 times daily", "3 times each day|3 times per day"),
    "4 times a day": _term("qid|qid|4x/d", "4 times daily", "4 times each day|4 times per day"),
    "every morning": _term("qam|qam|in am", "each morning", "in the morning|once a day in the morning"),
    "every evening": _term("qpm|qpm|in pm", "each evening", "in the evening|once a day in the evening"),
    "at bedtime": _term("qhs|qhs|hs", "nightly", "every night|every night at bedtime|once a day at bedtime"),
    "every 4 hours": _term("q4h|q4h|q 4 hrs", "every 4 hours"),
    "every 6 hours": _term("q6h|q6h|q 6 hrs", "every 6 hours"),
    "every 8 hours": _term("q8h|q8h|q 8 hrs", "every 8 hours"),
    "every 12 hours": _term("q12h|q12h|q 12 hrs", "every 12 hours"),
    "every 4 to 6 hours": _term("q4-6h|q4-6h|q 4-6 hrs", "every 4 to 6 hours"),
    "every other day": _term("qod|qod|every oth day", "on alternate days"),
    "every 3 days": _term("q3d|q3d|q72h", "every 3 days", "every 72 hours|once every 3 days"),
    "once a week": _term("qwk|qwk|weekly", "once weekly", "every week|once each week|once per week"),
    "2 times a week": _term("biw|2x/wk", "twice weekly", "twice a week|2 times weekly|2 times each week"),
}

TIMES_A_DAY: dict[str, float] = {
    "once a day": 1,
    "2 times a day": 2,
    "3 times a day": 3,
    "4 times a day": 4,
    "every morning": 1,
    "every evening": 1,
    "at bedtime": 1,
    "every 4 hours": 6,
    "every 6 hours": 4,
    "every 8 hours": 3,
    "every 12 hours": 2,
    "every 4 to 6 hours": 6,
    "every other day": 1,
    "every 3 days": 1,
    "once a week": 1,
    "2 times a week": 1,
}

ADVICE: dict[str, Term] = {
    "with food": _term("c food|w/ food|with food", "with food", "with meals|together with food"),
    "before meals": _term("ac|ac|before meals", "before meals", "before eating|before food"),
    "after meals": _term("pc|pc|after meals", "after meals", "after eating|after food"),
    "on an empty stomach": _term("empty stomach|on empty stom", "on an empty stomach", "on empty stomach"),
    "with water": _term(
        "c water|w/ water|with water", "with water", "with a full glass of water|with a glass of water"
    ),
}

REASONS: dict[str, Term] = {
    "pain": _term("pain", "pain"),
    "headache": _term("ha|headache", "headache", "headaches"),
    "fever": _term("fever", "fever"),
    "nausea": _term("nausea", "nausea"),
    "dizziness": _term("dizziness", "dizziness"),
    "cough": _term("cough", "cough", "coughing"),
    "itching": _term("itch|itching", "itching"),
    "allergies": _term("allergies|allergy", "allergies", "allergy"),
    "wheezing": _term("wheezing|wheeze", "wheezing"),
    "shortness of breath": _term("sob|sob|short of breath", "shortness of breath"),
    "congestion": _term("congestion", "congestion"),
    "anxiety": _term("anxiety|anx", "anxiety"),
    "sleep": _term("sleep|insomnia", "sleep", "trouble sleeping|insomnia"),
    "spasms": _term("spasm|spasms", "spasms", "muscle spasms"),
    "constipation": _term("constipation|constip", "constipation"),
    "diarrhea": _term("diarrhea", "diarrhea"),
    "heartburn": _term("heartburn", "heartburn"),
    "cramps": _term("cramps", "cramps", "stomach cramps"),
    "chest pain": _term("cp|chest pain", "chest pain"),
    "dry eyes": _term("dry eyes", "dry eyes"),
}

PRN_SIGS = ("prn", "prn", "as needed")
PRN_PLAIN = "if needed"
PRN_CLINICAL = "as needed"
PRN_ALSO = ("when needed", "only if needed", "only when needed")

MAXIMUM_SIGS = ("max", "max", "nte")


@dataclass(frozen=True, slots=True)
class Unit:
    """Singular and plural of a dose unit: `one` and `many` in full, `short` in the brief style, `sigs` in shorthand.

    `verb` is the verb for taking such a dose.
    """

    one: str
    many: str
    short: tuple[str, str]
    sigs: tuple[tuple[str, str], ...]
    verb: str


UNITS: dict[str, Unit] = {
    "tablet": Unit(
        "tablet", "tablets", ("tab", "tabs"), (("tab", "tabs"), ("tab", "tabs"), ("tablet", "tablets")), "take"
    ),
    "capsule": Unit("capsule", "capsules", ("cap", "caps"), (("cap", "caps"), ("capsule", "capsules")), "take"),
    "mL": Unit("mL", "mL", ("mL", "mL"), (("ml", "ml"),), "take"),
    "drop": Unit("drop", "drops", ("gtt", "gtts"), (("gtt", "gtts"), ("drop", "drops")), "put"),
    "puff": Unit("puff", "puffs", ("puff", "puffs"), (("puff", "puffs"),), "inhale"),
    "spray": Unit("spray", "sprays", ("spray", "sprays"), (("spray", "sprays"),), "use"),
    "thin layer": Unit("thin layer", "thin layers", ("thin layer", "thin layers"), (("apply", "apply"),), "apply"),
    "patch": Unit("patch", "patches", ("patch", "patches"), (("patch", "patches"),), "apply"),
    "suppository": Unit("suppository", "suppositories", ("supp", "supps"), (("supp", "supps"),), "insert"),
    "applicator": Unit("applicator", "applicators", ("appl", "appls"), (("applicator", "applicators"),), "insert"),
    "unit": Unit("unit", "units", ("unit", "units"), (("units", "units"), ("u", "u")), "inject"),
}

PILLS = frozenset({"tablet", "capsule"})

VERBS: dict[str, frozenset[str]] = {
    "take": frozenset({"take", "swallow"}),
    "put": frozenset({"put", "place", "instill"}),
    "place": frozenset({"place", "put", "dissolve"}),
    "inhale": frozenset({"inhale"}),
    "use": frozenset({"use", "spray"}),
    "apply": frozenset({"apply", "use"}),
    "insert": frozenset({"insert", "use", "place"}),
    "inject": frozenset({"inject"}),
}

STRENGTH_UNITS = ("mg", "mcg", "g", "%", "mcg/hr", "mg/5 mL", "g/15 mL")


def verb(unit: str, route: str) -> str:
    """The plain verb for a dose in `unit` by `route`.

    >>> verb("tablet", "by mouth"), verb("tablet", "under the tongue")
    ('take', 'place')
    """
    return "place" if route == "under the tongue" else UNITS[unit].verb
