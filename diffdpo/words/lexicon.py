"""What the words of a review are worth, and what a review may be made of.

Writer (`writer`) and reader (`reading`) share these tables and those of `things`, and nothing else.
"""

from __future__ import annotations

STRONG = {"great": 2.0, "excellent": 2.0, "wonderful": 2.0, "terrible": -2.0, "awful": -2.0, "dreadful": -2.0}
MILD = {"good": 1.0, "nice": 1.0, "bad": -1.0, "disappointing": -1.0}
"""Words that fit anything; those of an attribute of its own are worth 1 or -1."""

DEGREES = {
    "": 1.0,
    "quite": 0.5,
    "fairly": 0.5,
    "a bit": 0.5,
    "very": 1.5,
    "really": 1.5,
    "absolutely": 1.5,
    "truly": 1.5,
}
NEGATIONS = {"not": -0.5, "not very": -0.5, "not at all": -1.0, "far from": -1.5, "anything but": -1.5}
"""A negation turns a word round; a strong word counts as a mild one under it: `not terrible` is faint praise."""

LIKING = {
    "I loved": 2.0,
    "I really liked": 1.5,
    "I was impressed by": 1.5,
    "I could not fault": 1.5,
    "I liked": 1.0,
    "I was happy with": 1.0,
    "I did not mind": 0.5,
    "I had no trouble with": 0.5,
    "I did not like": -1.0,
    "I was not happy with": -1.0,
    "I was not impressed by": -1.0,
    "I disliked": -1.0,
    "I had to complain about": -1.5,
    "I hated": -2.0,
}
"""What may stand before `the <attribute>`."""

VERDICTS = {
    "product": {"I would buy it again": 1.5, "I would not buy it again": -1.5, "I sent it back": -2.0},
    "place": {"I would go there again": 1.5, "I would not go there again": -1.5, "we left early": -1.0},
    "meal": {"I would order it again": 1.5, "I would not order it again": -1.5, "I ate every bite of it": 1.5},
    "film": {"I would watch it again": 1.5, "I would not watch it again": -1.5, "we left before the end": -2.0},
}
RECOMMENDATIONS = {"I would recommend it": 1.5, "I would not recommend it": -1.5, "I cannot recommend it": -1.5}
"""Closing words. All of them are about the same target, so that a review counts one."""

OPENINGS = {
    "product": (
        "I bought it last week and",
        "I have used it for a month and",
        "My sister gave it to me and",
        "I ordered it by post and",
        "We have had it since the spring and",
        "It arrived on Monday.",
        "I was looking for one like it.",
    ),
    "place": (
        "We went there last Sunday and",
        "I have been there twice and",
        "It was my first visit and",
        "My brother took me there and",
        "We spent a whole day there and",
        "We were there in the summer.",
        "It is not far from our house.",
    ),
    "meal": (
        "I had it for lunch and",
        "We ordered it on Friday evening and",
        "I tried it yesterday and",
        "It was my first time there and",
        "We shared it and",
        "It came after ten minutes.",
        "I had it with a glass of water.",
    ),
    "film": (
        "We watched it last night and",
        "I saw it twice and",
        "I went to see it with my sister and",
        "I saw it on the train and",
        "We watched it with the children and",
        "It was on television yesterday.",
        "It was made last year.",
    ),
}
"""How a review goes on after its heading; those that end in `and` leave their sentence to be finished."""

HEDGES = ("To be honest,", "In my opinion,", "Overall,", "All in all,")

PLAIN = {
    "product": (
        "It came in a white box",
        "It came in a brown box",
        "My neighbour has the same one",
        "My aunt has the same one",
        "I keep it at home",
        "I paid for it by card",
        "We use it every day",
    ),
    "place": (
        "We took the bus",
        "We took the train",
        "It opens at nine in the morning",
        "It closes at six in the evening",
        "There is a bus stop next to it",
        "We came with two friends",
    ),
    "meal": (
        "We sat by the window",
        "My friend had the same",
        "We paid by card",
        "It was a Tuesday evening",
        "There were four of us",
        "It is on the menu every day",
    ),
    "film": (
        "It is two hours long",
        "It is based on a book",
        "We sat in the last row",
        "We sat in the third row",
        "My brother had seen it before",
        "It is about two sisters",
    ),
}
"""Sentences without an opinion."""

BE = {False: ("is", "was", "seemed", "turned out to be"), True: ("are", "were", "seemed", "turned out to be")}
"""Verbs of a predicate, by whether the subject is plural."""

SMALL_HALF = 0.5
"""What the other half of a contrast counts: `X` in `X, but Y` and in `although X, Y`."""


def worth(word: float, degree: str) -> float:
    """What a word of this worth counts under a degree or a negation."""
    if degree in NEGATIONS:
        return NEGATIONS[degree] * (1.0 if word > 0 else -1.0)
    return DEGREES[degree] * word
