"""What is written: the same from the same seed, understood by the reader, and split cleanly."""

from __future__ import annotations

import random
import re

from diffdpo.words.corpus import draw_texts
from diffdpo.words.reading import read
from diffdpo.words.review import all_prompts, draw_review
from diffdpo.words.reward import judge
from diffdpo.words.subjects import all_subjects, attributes, split_subjects
from diffdpo.words.things import COMMON, MODIFIERS, PLURAL, THINGS, WORDS


def reviews(n: int, *, held_out: bool = False):
    return [draw_review(random.Random(f"test {i}"), held_out=held_out) for i in range(n)]


def test_a_text_is_a_function_of_its_seed():
    assert draw_texts(50, seed=3) == draw_texts(60, seed=3)[:50]
    assert draw_texts(50, seed=3) != draw_texts(50, seed=4)


def test_the_reader_understands_what_the_writer_meant():
    """The writer notes the worth of its clauses as it makes them; the reader has the text alone."""
    drawn = [*reviews(1500), *reviews(500, held_out=True)]
    right = sum(read(review.text) == review.reading for review in drawn)
    assert right >= 0.99 * len(drawn)


def test_no_review_is_penalised_but_for_having_no_opinion():
    for review in reviews(500):
        verdict = judge(review.reading)
        faults = verdict.repeated + verdict.not_understood + verdict.off_topic + verdict.clashes + verdict.too_many
        assert faults == 0, review.text


def test_reviews_are_neutral_on_average_and_differ_widely():
    sentiments = [judge(review.reading).sentiment for review in reviews(2000)]
    mean = sum(sentiments) / len(sentiments)
    spread = (sum((value - mean) ** 2 for value in sentiments) / len(sentiments)) ** 0.5
    assert abs(mean) < 0.3
    assert 2 < spread < 4


def test_there_are_thousands_of_different_sentences():
    sentences = {sentence for review in reviews(3000) for sentence in review.sentences}
    assert len(sentences) > 5000


def test_every_attribute_has_words_and_no_word_praises_here_and_blames_there():
    named = " ".join([*COMMON.values(), *(names for things in THINGS.values() for names in things.values())])
    assert set(named.split()) == set(WORDS)
    assert set(PLURAL.split()) <= set(WORDS)
    signs: dict[str, set[bool]] = {}
    for attribute in attributes().values():
        for word, value in attribute.worth.items():
            signs.setdefault(word, set()).add(value > 0)
    assert [word for word, found in signs.items() if len(found) > 1] == []


def test_prompts_of_training_and_held_out_ones_share_no_subject():
    train, held_out = ({str(prompt) for prompt in all_prompts(held_out=side)} for side in (False, True))
    assert not train & held_out
    assert len(train) > 1500
    assert len(held_out) > 400
    assert {*split_subjects(held_out=True)} == {*all_subjects()} - {*split_subjects(held_out=False)}


def test_every_word_of_a_held_out_subject_occurs_in_training():
    train = {(subject.kind, word) for subject in split_subjects(held_out=False) for word in str(subject).split()}
    words = {(kind, word) for kind in THINGS for word in [*MODIFIERS[kind].split(), *THINGS[kind]]}
    assert train == words


def test_no_training_text_names_a_held_out_subject():
    held_out = "|".join(str(subject) for subject in split_subjects(held_out=True))
    pattern = re.compile(rf"\b({held_out})\b")
    assert not [text for text in draw_texts(4000, seed=0) if pattern.search(text)]
    assert pattern.search(" ".join(draw_texts(20, seed=0, source="reviews", held_out=True)))


def test_no_held_out_plain_text_occurs_in_training():
    train = set(draw_texts(4000, seed=0, source="general"))
    assert not train & set(draw_texts(500, seed=1, source="general", held_out=True))
