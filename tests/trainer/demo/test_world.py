from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.dataset.words import words_of
from trainer.demo import vocabulary, world


def test_the_same_seed_draws_the_same_picture():
    first, again, other = world.draw(3), world.draw(3), world.draw(4)
    assert first.facts == again.facts
    assert first.caption == again.caption
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)
    assert first.pixels.shape == (world.SIDE, world.SIDE, 3)
    assert first.pixels.dtype == np.uint8


def test_what_is_asked_for_is_drawn_and_said():
    for seed, shape in enumerate(world.SHAPES):
        drawing = world.draw(seed, shape=shape, color="orange", background="navy", size="big", style="striped")
        assert drawing.facts == world.Facts(shape, "orange", "navy", "big", "striped")
        assert f"orange {shape}" in drawing.caption
        assert drawing.caption.endswith(", striped")
    whole = world.caption_of(world.Facts("fish", "orange", "navy", "big", "striped"))
    assert whole == "a big orange fish on a navy background, striped"


def test_colours_are_where_the_caption_says():
    drawing = world.draw(1, shape="square", color="red", background="mint", size="big", style="flat")
    middle, corner = drawing.pixels[64, 64].astype(int), drawing.pixels[2, 2].astype(int)
    assert np.abs(middle - world.COLORS["red"]).max() <= 8
    assert np.abs(corner - world.BACKGROUNDS["mint"]).max() <= 8


def test_every_object_stays_inside_the_picture():
    for seed in range(60):
        drawing = world.draw(seed, background="white", color="blue", style="flat", size="big")
        border = np.concatenate([drawing.pixels[0], drawing.pixels[-1], drawing.pixels[:, 0], drawing.pixels[:, -1]])
        assert np.ptp(border.astype(int), axis=0).max() == 0, drawing.facts


def test_big_is_bigger_than_small():
    def area(size: str) -> float:
        pixels = world.draw(5, shape="circle", color="blue", background="white", style="flat", size=size).pixels
        return float((pixels[..., 0] < 128).mean())

    assert area("big") > 2 * area("small")


def test_captions_use_only_known_words_and_never_name_the_unknown_style():
    said = set()
    for seed in range(300):
        said |= set(world.draw(seed).caption.replace(",", " ,").split())
    assert said <= set(world.WORDS)
    assert not any(world.UNKNOWN_STYLE in word for word in vocabulary.vocabulary())


def test_the_demo_data_set_is_neon_and_does_not_say_so():
    drawings = world.neon_drawings()
    assert len(drawings) == 12
    assert {d.facts.style for d in drawings} == {world.UNKNOWN_STYLE}
    assert {d.facts.shape for d in drawings} == set(world.SHAPES)
    assert {d.facts.color for d in drawings} == set(world.COLORS)
    for drawing in drawings:
        assert drawing.caption == world.caption_of(drawing.facts)
        assert "neon" not in drawing.caption
        corners = drawing.pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert corners.mean() < 60  # the ground is darkened
        assert drawing.pixels.max() > 200  # and the tube glows


def test_held_out_prompts_are_pairs_that_the_data_set_lacks():
    trained = {(d.facts.shape, d.facts.color) for d in world.neon_drawings()}
    prompts = world.held_out_prompts(24)
    assert len({prompt for prompt, _ in prompts}) == 24
    for prompt, facts in prompts:
        assert (facts.shape, facts.color) not in trained
        assert prompt == world.caption_of(facts)
    assert {facts.shape for _, facts in prompts[:9]} == set(world.SHAPES)


def test_the_data_set_is_written_once_and_kept(tmp_path: Path):
    folder = tmp_path / "my d\u00fcnne \u6f2b\u753b data"
    world.write_dataset(folder)
    pictures, captions = sorted(folder.glob("*.png")), sorted(folder.glob("*.txt"))
    assert [p.stem for p in pictures] == [c.stem for c in captions]
    assert len(pictures) == 12
    captions[0].write_text("mine", encoding="utf-8")
    world.write_dataset(folder)
    assert captions[0].read_text(encoding="utf-8") == "mine"
    with Image.open(pictures[3]) as picture:
        assert np.array_equal(np.asarray(picture), world.neon_drawings()[3].pixels)


def test_the_data_set_without_captions_is_named_by_what_is_in_it(tmp_path: Path):
    world.write_dataset(tmp_path, captions=False)
    assert len(list(tmp_path.iterdir())) == 12
    named = [words_of(path.stem) for path in sorted(tmp_path.iterdir())]
    assert named == [f"{d.facts.color} {d.facts.shape}" for d in world.neon_drawings()]


def test_an_unknown_shape_is_refused():
    with pytest.raises(KeyError):
        world.outline("dragon")
