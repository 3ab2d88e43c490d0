"""The grammar, and a split that leaks nothing."""

import pytest

from diffdpo.shapes.scene import BACKGROUNDS, RELATIONS, all_scenes, parse_caption, sample_captions, split_scenes


def test_every_caption_is_read_back():
    assert all(parse_caption(scene.caption) == scene for scene in all_scenes())
    assert len({scene.caption for scene in all_scenes()}) == len(all_scenes()) == 15 * 14 * 4 * 3 + 15 * 3


@pytest.mark.parametrize("text", ["", "a cat", "a red circle", "a red circle left of on a white background"])
def test_other_sentences_are_refused(text):
    with pytest.raises(ValueError, match="not a caption"):
        parse_caption(text)


def test_split_is_by_combination():
    train, held_out = (split_scenes(held_out=side) for side in (False, True))
    assert len(train) + len(held_out) == len(all_scenes())
    assert not {s.combination for s in train} & {s.combination for s in held_out}
    assert 0.15 < len(held_out) / len(all_scenes()) < 0.25


def test_the_other_way_round_falls_on_the_same_side():
    assert all(scene.mirrored().held_out == scene.held_out for scene in all_scenes())


def test_every_single_word_is_seen_in_training():
    train = split_scenes(held_out=False)
    assert {str(t) for s in train for t in s.things} == {str(t) for s in all_scenes() for t in s.things}
    assert {s.background for s in train} == set(BACKGROUNDS)
    assert {s.relation for s in train} == {*RELATIONS, None}


def test_sampled_captions_are_distinct_and_on_their_side():
    captions = sample_captions(300, seed=1, held_out=True)
    assert len(set(captions)) == 300
    assert all(parse_caption(caption).held_out for caption in captions)
    assert captions != sample_captions(300, seed=2, held_out=True)
