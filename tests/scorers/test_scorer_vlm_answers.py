"""answers.py: what is read as a number or a choice, and all that is not."""

from __future__ import annotations

import pytest

from scorers.chat.answers import read_choice, read_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        (" 8\n", 8),
        ("8.", 8),
        ("7.5", 7.5),
        ("7.5/10", 7.5),
        ("7 / 10", 7),
        ("7 out of 10", 7),
        ("10", 10),
        ("9", 9),
        ("Score: 8", 8),
        ("score = 8/10", 8),
        ("The score is 8.", 8),
        ("My final rating is: 6.25", 6.25),
        ("**8**", 8),
        ("**Score:** 8/10", 8),
        ("`3`", 3),
        ('{"score": 8}', 8),
        ('{"Rating": "7.5/10", "reason": "the cat is 2 cats"}', 7.5),
        ('```json\n{"score": 4}\n```', 4),
        ("```\n4\n```", 4),
        ("<think>It could be a 3, or 9.</think>\n\n7", 7),
    ],
)
def test_a_number_is_read(text: str, value: float) -> None:
    assert read_number(text, 1, 10) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ten",
        "11",
        "0.9",
        "-3",
        "8 or 9",
        "8/9",
        "4/5",
        "80%",
        "8,5",
        "1e1",
        "nan",
        "inf",
        "I would say 8",
        "8 because it is good",
        "8 9",
        "Score: 8\nIt shows 2 cats.",
        "<think>8",
        '{"score": 11}',
        '{"score": true}',
        '{"score": null}',
        '{"score": [8]}',
        '{"score": 8, "rating": 7}',
        '{"points": 8}',
        '{"score": 8',
        '{"a":' * 5000,
        "1" * 5000,
    ],
)
def test_anything_else_is_no_number(text: str) -> None:
    assert read_number(text, 1, 10) is None


def test_numbers_are_compared_as_numbers() -> None:
    assert read_number("10", 1, 10) > read_number("9", 1, 10)  # type: ignore[operator]
    assert read_number("9.5", 0, 100) < read_number("10", 0, 100)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A", 1),
        ("b", 0),
        ("C", 0.5),
        ("TIE", 0.5),
        ("Image A", 1),
        ("Image B.", 0),
        ("Answer: B", 0),
        ("The better image is A", None),
        ("The winner is image A.", 1),
        ("[[A]]", 1),
        ("**B**", 0),
        ('{"winner": "A"}', 1),
        ('{"answer": "Image B", "reason": "A is dark"}', 0),
        ("<think>A? B?</think>C", 0.5),
        ("A or B", None),
        ("Both", None),
        ("D", None),
        ("", None),
        ("A is better than B", None),
        ('{"winner": 1}', None),
    ],
)
def test_a_choice_is_read_or_not(text: str, value: float | None) -> None:
    assert read_choice(text) == value
