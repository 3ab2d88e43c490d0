"""Where answers begin and end in tokens, and what becomes of those that are too long, empty or equal."""

from __future__ import annotations

import pytest
import torch
from text_samples import tokenizer

from diffdpo.data.text.batch import pad
from diffdpo.data.text.examples import Limits, examples
from diffdpo.data.text.records import Demonstration, Dialogue, Document, Query, Ranking, Turn, Verdict, pair
from diffdpo.data.text.tokens import Encoder, Tokens
from diffdpo.errors import UserError

ROOM = Limits(64)


def encoder(**special: bool) -> Encoder:
    return Encoder.of(tokenizer(**special), "m")


def said(found: Encoder, tokens: Tokens) -> str:
    """The learnt tokens, as text."""
    return found.tokenizer.decode([i for i, learnt in zip(tokens.ids, tokens.completion, strict=True) if learnt])


def test_the_answer_and_its_end_token_are_learnt():
    found = encoder()
    tokens = found.answer("", "ab", " cd")
    assert said(found, tokens) == " cd</s>"
    assert tokens.ids[-1] == found.end
    assert found.tokenizer.decode(list(tokens.ids)) == "ab cd</s>"


def test_a_token_that_merges_over_the_boundary_is_the_answers():
    """`t` + `he` is one token `th` and `e`: nothing of it may be taken for the prompt."""
    found = encoder()
    tokens = found.answer("", "at", "he")
    assert found.tokenizer.convert_ids_to_tokens(list(tokens.ids)) == ["a", "th", "e", "</s>"]
    assert tokens.completion == (False, True, True, True)


def test_an_end_token_that_is_there_already_is_not_doubled():
    found = encoder()
    assert found.answer("", "a", "b</s>").ids.count(found.end) == 1


@pytest.mark.parametrize("start", [False, True])
def test_the_first_token_of_an_answer_without_a_prompt_can_be_told_too(start):
    found = encoder(start=start)
    tokens = found.answer("", "", "bc")
    assert said(found, tokens) == "bc</s>"
    assert tokens.ids[0] == (1 if start else found.end)
    assert found.document("bc") == tokens


def test_a_dialogue_is_learnt_where_the_assistant_speaks():
    found = encoder()
    turns = (Turn("user", "u1"), Turn("assistant", "a1"), Turn("user", "u2"), Turn("assistant", "a2"))
    tokens = found.dialogue("", turns)
    assert said(found, tokens) == "a1</s>a2</s>"
    assert found.tokenizer.decode(list(tokens.ids)) == (
        "<|user|>u1</s>\n<|assistant|>a1</s>\n<|user|>u2</s>\n<|assistant|>a2</s>"
    )


def test_a_conversation_is_a_prompt():
    found = encoder()
    turns = (Turn("user", "u1"), Turn("assistant", "a1"), Turn("user", "u2"))
    tokens = found.answer("", turns, "a2")
    assert said(found, tokens) == "a2</s>"
    assert found.tokenizer.decode(found.prompt("", turns)).endswith("u2</s>\n<|assistant|>")


def test_a_template_that_rewrites_earlier_turns_is_refused():
    words = tokenizer()
    words.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="x: the chat template writes turn 2 differently"):
        Encoder.of(words, "m").dialogue(
            "x", [Turn(*turn) for turn in (("user", "u"), ("assistant", "a"), ("user", "v"))]
        )


def test_a_tokenizer_without_chat_template():
    with pytest.raises(UserError, match=r"line 3: a conversation, but .* has no chat template"):
        encoder(chat=False).answer("line 3", (Turn("user", "u"),), "a")


def test_a_tokenizer_without_end_token():
    with pytest.raises(UserError, match=r"m: its tokenizer has no end token.*data.end_token"):
        encoder(end=False)
    assert Encoder.of(tokenizer(end=False), "m", "</s>").end == 2
    with pytest.raises(UserError, match=r"data.end_token: '<end>' is no token"):
        Encoder.of(tokenizer(), "m", "<end>")


def test_a_tokenizer_without_pad_token_is_filled_with_end_tokens_that_the_mask_knows():
    found = encoder(pad=False)
    assert found.pad == found.end
    batch = pad([found.answer("", "a", "b"), found.answer("", "a", "bcd")], found.pad)
    assert batch.mask.sum(1).tolist() == [3, 5]
    assert batch.completion.sum(1).tolist() == [2, 4]
    assert (batch.ids[0, 3:] == found.end).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(side):
    batch = pad([Tokens((5, 6, 7), (False, True, True)), Tokens((8, 9), (False, True))], 0, side)
    assert batch.ids[1].tolist() == ([0, 8, 9] if side == "left" else [8, 9, 0])
    assert batch.mask[1].tolist() == ([False, True, True] if side == "left" else [True, True, False])
    assert torch.equal(batch.completion.sum(1), torch.tensor([2, 1]))


def test_what_is_left_out_is_counted_by_reason():
    records = [
        pair("1", "p", "a", " "),
        pair("2", "p", "a", "a "),
        pair("3", "p", "a" * 99, "b"),
        pair("4", "p", "a", "b"),
    ]
    found, count = examples(records, "pairs", encoder(), Limits(16))
    assert [example.where for example in found] == ["4"]
    assert count.told() == (
        "4 records, 1 left out for an empty answer, 1 left out for chosen equal to rejected, "
        "1 left out for longer than data.max_length"
    )
    ranked = [Ranking("5", "p", ("a", " ", "b", "cd"), (1, 2, 3, 3)), Ranking("6", "p", ("a", "", "b"), (1, 2, 1))]
    found, count = examples(ranked, "rankings", encoder(), ROOM)
    assert [(len(example.answers), example.ranks) for example in found] == [(3, (1, 3, 3))]
    assert dict(count.dropped) == {"an empty answer": 2, "all answers tied": 1}
    found, count = examples([Ranking("7", "p", ("a", "b"), (1, 1))], "rankings", encoder(), ROOM)
    assert (found, dict(count.dropped)) == ([], {"all answers tied": 1})


def test_equal_answers_among_several_make_no_pair():
    found, count = examples([Ranking("1", "p", ("a", "a", "b"), (1, 2, 3))], "pairs", encoder(), ROOM)
    assert len(found) == 2
    assert dict(count.dropped) == {"chosen equal to rejected": 1}


def test_an_undesirable_answer_is_not_imitated_and_counted():
    found, count = examples([Verdict("1", "p", "a", False)], "demonstrations", encoder(), ROOM)
    assert (found, dict(count.dropped)) == ([], {"being undesirable": 1})


@pytest.mark.parametrize(("truncation", "prompt"), [("keep_end", "456789"), ("keep_start", "012345")])
def test_a_long_prompt_keeps_the_same_part_for_both_answers(truncation, prompt):
    found = encoder()
    (example,), count = examples([pair("1", "0123456789", " a", " bcd")], "pairs", found, Limits(11, None, truncation))
    texts = [found.tokenizer.decode(list(answer.ids)) for answer in example.answers]
    assert texts == [f"{prompt} a</s>", f"{prompt} bcd</s>"]
    assert count.cut == 2


def test_an_answer_that_is_too_long_even_so_loses_its_end():
    found = encoder()
    (example,), _ = examples([Demonstration("1", "0123", "abcdef")], "demonstrations", found, Limits(6, 2, "keep_end"))
    assert found.tokenizer.decode(list(example.answers[0].ids)) == "23abcd"
    assert said(found, example.answers[0]) == "abcd"


def test_a_prompt_over_its_own_limit_is_dropped_under_its_own_reason():
    _, count = examples([Demonstration("1", "0123", "a")], "demonstrations", encoder(), Limits(64, 2))
    assert dict(count.dropped) == {"a prompt longer than data.max_prompt_length": 1}


@pytest.mark.parametrize(("truncation", "text"), [("keep_start", "ab</s>"), ("keep_end", "d</s>")])
def test_a_long_dialogue_is_cut(truncation, text):
    found = encoder()
    turns = tuple(Turn(*turn) for turn in (("user", "u"), ("assistant", "ab"), ("user", "v"), ("assistant", "d")))
    length = {"keep_start": 30, "keep_end": 18}[truncation]
    (example,), count = examples([Dialogue("1", turns)], "demonstrations", found, Limits(length, None, truncation))
    assert said(found, example.answers[0]) == text
    assert count.cut == 1
    assert examples([Dialogue("1", turns)], "demonstrations", found, Limits(length))[0] == []


def test_every_token_of_a_long_document_is_learnt_once():
    found = encoder()
    pieces, _ = examples([Document("1", "abcdefghij")], "demonstrations", found, Limits(5))
    assert "".join(said(found, piece.answers[0]) for piece in pieces) == "abcdefghij</s>"
    assert all(len(piece.answers[0].ids) <= 5 for piece in pieces)


def test_a_ranking_gives_its_ordered_pairs_and_a_pair_two_verdicts():
    found = encoder()
    ranking = Ranking("1", "p", ("x", "y", "z"), (2, 1, 2))
    pairs, _ = examples([ranking], "pairs", found, ROOM)
    assert [[said(found, a)[0] for a in example.answers] for example in pairs] == [["y", "x"], ["y", "z"]]
    verdicts, _ = examples([pair("2", "p", "a", "b"), Verdict("3", "p", "c", False)], "verdicts", found, ROOM)
    assert [(said(found, v.answers[0])[0], v.ranks) for v in verdicts] == [("a", (1,)), ("b", (2,)), ("c", (2,))]
    best, _ = examples([ranking], "demonstrations", found, ROOM)
    assert said(found, best[0].answers[0]) == "y</s>"


def test_whatever_has_a_prompt_gives_one_to_answer():
    """It keeps its form, and ends where an answer would begin."""
    turns = (Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"))
    records = [Query("1", "ab"), pair("2", "p", "x", "y"), Dialogue("3", turns), Query("4", " ")]
    found, count = examples(records, "prompts", encoder(), ROOM)
    assert [example.query for example in found] == ["ab", "p", turns[:3]]
    assert found[2].answers[0].ids == tuple(encoder().prompt("", turns[:3]))
    assert all(not any(example.answers[0].completion) for example in found)
    assert dict(count.dropped) == {"an empty prompt": 1}


@pytest.mark.parametrize(("truncation", "kept"), [("keep_end", "6789"), ("keep_start", "0123"), ("drop", None)])
def test_a_prompt_that_leaves_no_room_for_an_answer(truncation, kept):
    found, count = examples([Query("1", "0123456789")], "prompts", encoder(), Limits(16, 4, truncation))
    if kept is None:
        assert (found, dict(count.dropped)) == ([], {"a prompt longer than data.max_prompt_length": 1})
    else:
        assert encoder().tokenizer.decode(list(found[0].answers[0].ids)) == kept
        assert found[0].query == kept  # what scores the answer sees what gives it
        assert count.cut == 1


def test_a_cut_prompt_keeps_the_token_that_texts_start_with():
    found = encoder(start=True)
    limits = Limits(8, 4, "keep_end")
    (asked,), _ = examples([Query("1", "0123456789")], "prompts", found, limits)
    (told,), _ = examples([Demonstration("2", "0123456789", "ab")], "demonstrations", found, limits)
    assert [found.tokenizer.decode(list(one.answers[0].ids)) for one in (asked, told)] == ["<s>789", "<s>789ab</s>"]
    turns = (Turn("user", "0123456789"), Turn("assistant", "ab"))
    (talk,), _ = examples([Dialogue("3", turns)], "demonstrations", found, Limits(8, None, "keep_end"))
    whole = found.dialogue("", turns)
    assert talk.answers[0].ids == whole.ids[-8:]  # this template writes none


def test_of_a_conversation_no_part_is_taken_that_no_answer_could_follow():
    turns = (Turn("user", "0123456789"),)
    kept_start, count = examples([pair("1", turns, "a", "b")], "pairs", encoder(), Limits(16, 8, "keep_start"))
    assert (kept_start, sum(count.dropped.values())) == ([], 1)
    asked, count = examples([Query("2", turns)], "prompts", encoder(), Limits(16, 8, "keep_end"))
    assert (asked, sum(count.dropped.values())) == ([], 1)


@pytest.mark.parametrize(
    ("record", "purpose", "message"),
    [
        (Query("here", "a"), "demonstrations", "here: a query, but this method learns from answers"),
        (Document("here", "a"), "prompts", "here: a document, but this method learns from prompts"),
        (Query("here", "a"), "texts", "here: a query, but this method learns from plain text"),
    ],
)
def test_prompts_and_texts_are_not_taken_for_each_other(record, purpose, message):
    with pytest.raises(UserError, match=message):
        examples([record], purpose, encoder(), ROOM)


def test_a_record_of_the_wrong_kind_is_named():
    with pytest.raises(UserError, match="here: a document, but this method learns from answers beside each other"):
        examples([Document("here", "a")], "pairs", encoder(), ROOM)
