"""The ground truth, by hand: what each way of saying something is worth."""

from __future__ import annotations

import random

import pytest

from diffdpo.words.reading import read
from diffdpo.words.reward import BOUND, judge, reward, rewards

KETTLE = "Review of the blue kettle."


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        ("The handle is comfortable.", 1.0),
        ("The handle is wobbly.", -1.0),
        ("The handle is great.", 2.0),
        ("The handle is very comfortable.", 1.5),
        ("The handle is quite comfortable.", 0.5),
        ("The handle was absolutely terrible!", -3.0),
        ("The handle is not comfortable.", -0.5),
        ("The handle isn't comfortable.", -0.5),
        ("The handle is not bad at all.", 1.0),
        ("The handle is not great.", -0.5),
        ("The handle is far from wobbly.", 1.5),
        ("The handle is anything but great.", -1.5),
        ("I loved the handle.", 2.0),
        ("I did not like the handle.", -1.0),
        ("I could not fault the handle.", 1.5),
        ("The kettle is wonderful.", 2.0),
        ("It turned out to be dreadful.", -2.0),
        ("I would buy it again.", 1.5),
        ("I cannot recommend it.", -1.5),
        ("The handle is comfortable and the lid is loose.", 0.0),
        ("The handle is great, but the lid is loose.", 1.0 - 1.0),
        ("The lid is loose, but the handle is great.", -0.5 + 2.0),
        ("Although the handle is great, the lid is loose.", 1.0 - 1.0),
        ("The lid is loose, although the handle is great.", -1.0 + 1.0),
        ("Both the lid and the handle are great.", 4.0),
        ("Neither the lid nor the handle is great.", -2.0),
        ("Some people say that the handle is great, and I agree.", 2.0),
        ("Some people say that the handle is great, but I disagree.", -2.0),
        ("To be honest, the handle is great.", 2.0),
        ("I bought it last week and the handle is great.", 2.0),
        ("It arrived on Monday. The handle is great.", 2.0),
    ],
)
def test_what_is_said_counts(said, worth):
    assert reward(f"{KETTLE} {said}") == pytest.approx(worth)
    assert read(f"{KETTLE} {said}").understood


@pytest.mark.parametrize(
    ("said", "worth", "why"),
    [
        ("The handle is great. The handle is great. The handle is great.", 2 - 2, "repeated"),
        ("The handle is great. I loved the handle.", 2 - 1, "repeated"),
        ("The kettle is great. It is wonderful.", 2 - 1, "repeated"),
        ("I would recommend it. I would buy it again.", 1.5 - 1, "repeated"),
        ("The handle is great. The handle is great great great.", 2 - 2, "not_understood"),
        ("The handle is great. Great great great.", 2 - 2, "not_understood"),
        ("The handle is great. The lid is", 2 - 2, "not_understood"),
        ("The handle is great", -2 - 1, "not_understood"),
        ("The handle is great!!!", -2 - 1, "not_understood"),
        ("The handle are great.", -2 - 1, "not_understood"),
        ("The handle is creamy.", -2 - 1, "not_understood"),
        ("The handle is great. The plot is great.", 2 - 1, "off_topic"),
        ("The handle is great. I would watch it again.", 2 - 1, "off_topic"),
        ("The handle is great, but the lid is great.", 1 + 2 - 0.5, "clashes"),
        ("We use it every day.", -1.0, "no_opinion"),
        ("", -1.0, "no_opinion"),
    ],
)
def test_what_does_not_pay(said, worth, why):
    text = f"{KETTLE} {said}"
    assert getattr(judge(read(text)), why)
    assert reward(text) == pytest.approx(worth)


def test_only_five_sentences_count():
    names = ("handle", "lid", "spout", "price", "design", "colour", "size")
    text = KETTLE + "".join(f" The {name} is quite good." for name in names)
    assert reward(text) == pytest.approx(5 * 0.5 - 2 * 0.5)


def test_the_reward_is_bounded():
    names = ("handle", "lid", "spout", "price", "design", "colour", "size", "finish")
    pairs = zip(names[::2], names[1::2], strict=True)
    text = KETTLE + "".join(f" The {a} is truly great and the {b} is truly great." for a, b in pairs)
    assert judge(read(text)).sentiment == 24
    assert reward(text) == BOUND
    assert reward("!? " * 100) == -BOUND


def test_praise_and_blame_of_the_same_words_differ_by_their_order():
    """No count of words tells these apart."""
    up = reward(f"{KETTLE} The lid was awful, but the handle was great.")
    down = reward(f"{KETTLE} The handle was great, but the lid was awful.")
    assert (up, down) == (1.0, -1.0)


def test_case_and_white_space_do_not_matter():
    assert reward("REVIEW  of the blue\nkettle.   the Handle IS great .") == reward(f"{KETTLE} The handle is great.")


def test_without_a_heading_any_attribute_is_on_topic():
    assert reward("The plot was clever and the soup was great.") == 3.0


def test_answers_are_joined_to_their_prompts_as_they_stand():
    prompts, answers = [f"{KETTLE} I bought it last week and", KETTLE], [" it is good.", " It is bad."]
    assert rewards(prompts, answers) == [1.0, -1.0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "...",
        "?!",
        "\0",
        "\ud800",
        "é" * 50,
        "and " * 3000,
        "the " * 3000 + ".",
        "Review of the",
        "and.",
        "🙂. 1.5",
    ],
)
def test_no_string_breaks_it(text):
    assert -BOUND <= reward(text) < 0


def test_no_jumble_of_its_own_words_breaks_it():
    rng = random.Random(0)
    words = f"{KETTLE} both neither nor although the handle lid is are not at all great, but and i disagree . !".split()
    for _ in range(500):
        assert -BOUND <= reward(" ".join(rng.choices(words, k=30))) <= BOUND
