"""From a config and a dataset to a job and a filled cache, with an encoder that counts."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageEnhance

from trainer import canaries, demo, prepare
from trainer.cache import Cache
from trainer.config import TrainConfig, parse
from trainer.dataset import Dataset, ImageItem, scan
from trainer.demo import world
from trainer.errors import CacheError, ConfigError, DatasetError
from trainer.events import Event, Phase
from trainer.job import Base, Job, differences
from trainer.prepare import StoppedWhilePreparing, fill, plan

BASE = Base(Path("/base.safetensors"), "sd15", "c0ffee")


class CountingEncoder:
    """Encodes nothing much, and remembers what it was asked for."""

    latents_fingerprint = "vae"
    conditioning_fingerprint = "clip"

    def __init__(self, at_once: int = 1) -> None:
        self.pictures: list[tuple[int, ...]] = []
        self.captions: list[str] = []
        self.batches: list[int] = []
        self.texts_at_once = at_once

    def images_at_once(self, pixels: int) -> int:
        return self.texts_at_once

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        self.pictures.append(tuple(pixels.shape))
        means = pixels.mean((1, 2, 3))[:, None, None, None]
        return means.expand(-1, 4, pixels.shape[2] // 8, pixels.shape[3] // 8).clone()

    def encode_texts(self, captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        self.batches.append(len(captions))
        self.captions += captions
        return [{"hidden": torch.full((1, 77, 4), float(len(caption)))} for caption in captions]


def image(name: str, caption: str = "", bucket: tuple[int, int] = (64, 128)) -> ImageItem:
    return ImageItem(name, Path(f"/d\u00e4ta/{name}.png"), (caption or f"a picture of {name}",), (70, 140), bucket, 1)


def dataset(*images: ImageItem) -> Dataset:
    return Dataset(Path("/d\u00e4ta"), images, ())


def edged(size: tuple[int, int]) -> torch.Tensor:
    pixels = torch.zeros(3, size[1], size[0])
    pixels[..., 0] = 1
    return pixels


@pytest.fixture(autouse=True)
def _no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels out of nothing, black with a white left edge: what decoding gives is another test's."""
    monkeypatch.setattr(prepare, "load_both", lambda item: (edged(item.bucket), None))
    monkeypatch.setattr(prepare, "check_unchanged", lambda item: None)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "c\u00e4che \u7f13\u5b58")


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


def config(**fields: object) -> TrainConfig:
    return parse({"output_dir": "/out/x", **fields})


def planned(images: Sequence[ImageItem], encoder: CountingEncoder, **fields: object) -> Job:
    return plan(config(**fields), dataset(*images), BASE, encoder, Path("/cache"))


def filled(job: Job, images: Sequence[ImageItem], encoder: CountingEncoder, cache: Cache,
           stop: Callable[[], bool] = lambda: False) -> list[Event]:  # fmt: skip
    seen: list[Event] = []
    fill(job, dataset(*images), encoder, cache, emit=seen.append, stop=stop)
    return seen


def own(job: Job) -> list[str]:
    """The prompts of the samples, but for the one that is far from the data set."""
    return [prompt.text for prompt in job.prompts if prompt.text not in canaries.PROMPTS]


IMAGES = (image("a"), image("b"), image("c", bucket=(128, 64)))


def test_a_plan_encodes_nothing_and_says_what_will_be_read(encoder: CountingEncoder) -> None:
    job = planned(IMAGES, encoder)
    assert (encoder.pictures, encoder.captions) == ([], [])
    assert [i.id for i in job.items] == ["a", "b", "c"]
    assert job.items[2].bucket == (128, 64)
    assert job.items[0].captions == ("a picture of a",)
    assert job.origin == "command line"
    assert job.base == BASE


def test_the_job_knows_what_the_latents_and_the_conditioning_are_made_from(encoder: CountingEncoder) -> None:
    job = planned((replace(image("a"), mask="alpha", mask_id="m"),), encoder)
    assert (job.vae, job.text_encoder, job.items[0].mask) == ("vae", "clip", "m")


def test_other_names_and_another_order_are_the_same_run(encoder: CountingEncoder) -> None:
    renamed = [replace(one, path=Path(f"/other/{9 - number}.png")) for number, one in enumerate(IMAGES)][::-1]
    job, other = (planned(images, encoder, validation_images=1) for images in (IMAGES, renamed))
    assert job.run_id == other.run_id


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captions": ("another",)}, "train_data_dir: other images or captions"),
        ({"mask": "alpha", "mask_id": "other"}, "train_data_dir: other masks"),
        ({"id": "z"}, "train_data_dir: other images or captions"),
    ],
)
def test_what_differs_of_an_image_is_said_and_nothing_else(
    encoder: CountingEncoder, changes: dict[str, Any], said: str
) -> None:
    changed = (replace(IMAGES[0], **changes), *IMAGES[1:])
    assert differences(planned(IMAGES, encoder), planned(changed, encoder)) == [said]


def test_filling_encodes_each_thing_once_and_only_what_is_lacking(encoder: CountingEncoder, cache: Cache) -> None:
    job = planned(IMAGES, encoder)
    filled(job, IMAGES, encoder, cache)
    assert sorted(encoder.captions) == ["", canaries.PROMPTS[0], "a picture of a", "a picture of b", "a picture of c"]
    assert encoder.pictures == [(1, 3, 128, 64), (1, 3, 128, 64), (1, 3, 64, 128)]
    assert all(cache.has(kind, key) for kind, key in job.cache_entries())

    again = CountingEncoder()
    assert filled(job, IMAGES, again, cache) == []
    assert (again.captions, again.pictures) == ([], [])

    more = (*IMAGES, image("d", caption="a picture of a"))
    filled(planned(more, again), more, again, cache)
    assert again.captions == []  # its caption is there already
    assert again.pictures == [(1, 3, 128, 64)]


def test_another_vae_or_clip_encodes_anew(encoder: CountingEncoder, cache: Cache) -> None:
    filled(planned(IMAGES, encoder), IMAGES, encoder, cache)
    vae, clip = CountingEncoder(), CountingEncoder()
    vae.latents_fingerprint, clip.conditioning_fingerprint = "other vae", "other clip"
    filled(planned(IMAGES, vae), IMAGES, vae, cache)
    assert (len(vae.pictures), len(vae.captions)) == (3, 0)
    filled(planned(IMAGES, clip), IMAGES, clip, cache)
    assert (len(clip.pictures), len(clip.captions)) == (0, 5)


def test_the_prompts_of_the_samples_are_encoded_too(encoder: CountingEncoder, cache: Cache) -> None:
    job = planned(IMAGES, encoder, sample_prompts=["a house", "a picture of b"])
    assert [p.text for p in job.prompts] == ["a house", "a picture of b"]
    assert job.prompts[1].conditioning == job.items[1].conditioning[0]
    filled(job, IMAGES, encoder, cache)
    assert encoder.captions.count("a house") == 1
    assert encoder.captions.count("a picture of b") == 1


@pytest.mark.parametrize(
    ("fields", "prompts"),
    [
        ({}, ["same", "b", "c"]),  # the first three captions that differ
        ({"sample_every": 0}, []),
        ({"sample_every": 0, "sample_prompts": ["x"]}, ["x"]),  # can be asked for
        ({"sample_prompts": ["x", "y", "z"]}, ["x", "y", "z"]),
    ],
)
def test_which_prompts_are_drawn(encoder: CountingEncoder, fields: dict[str, object], prompts: list[str]) -> None:
    images = (image("1", "same"), image("2", "same"), image("3", "b"), image("4", "c"))
    assert own(planned(images, encoder, **fields)) == prompts


@pytest.mark.parametrize(
    ("fields", "captions", "prompts"),
    [
        ({"trigger_word": "zwx"}, ("zwx, a house", "zwx, b"), ["zwx, a house", "zwx, b", "a house"]),
        (
            {"trigger_word": "zwx"},
            ("a photo of zwx in snow", "b"),
            ["a photo of zwx in snow", "b", "a photo of in snow"],
        ),
        ({"trigger_word": "zwx"}, ("zwx", "zwx"), ["zwx"]),
        ({"class_prompt": "a woman"}, ("a", "b"), ["a", "b", "a woman"]),
        ({"class_prompt": "a"}, ("a", "b"), ["a", "b"]),
        ({"class_prompt": "a woman", "sample_prompts": ["x"]}, ("a", "b"), ["x"]),
    ],
)
def test_one_prompt_is_without_the_trigger_word(
    encoder: CountingEncoder, fields: dict[str, object], captions: tuple[str, ...], prompts: list[str]
) -> None:
    images = [image(str(number), caption) for number, caption in enumerate(captions)]
    assert own(planned(images, encoder, **fields)) == prompts


def test_one_prompt_is_far_from_the_data_set(encoder: CountingEncoder, cache: Cache) -> None:
    """Neither a caption nor the class: it has no word that says something in common with them."""
    prompt = planned(IMAGES, encoder).prompts[-1]
    assert prompt.text in canaries.PROMPTS
    assert "lighthouse" in prompt.text
    seaside = [image(str(n), f"a lighthouse by the rocky coast, photograph {n}") for n in range(3)]
    other = planned(seaside, encoder).prompts[-1]
    assert other.text in canaries.PROMPTS
    assert "lighthouse" not in other.text
    assert planned(IMAGES[::-1], encoder).prompts[-1] == prompt
    filled(planned(IMAGES, encoder), IMAGES, encoder, cache)
    assert prompt.text in encoder.captions


def test_a_base_with_words_of_its_own_is_asked_for_what_it_knows(encoder: CountingEncoder, tmp_path: Path) -> None:
    world.write_dataset(tmp_path / "pictures")
    scanned = scan(tmp_path / "pictures", resolution=128)
    job = plan(config(), scanned, replace(BASE, file=demo.BASE), encoder, Path("/cache"))
    words = set(job.prompts[-1].text.replace(",", "").split())
    assert words <= set(world.WORDS)
    assert "watercolor" in words  # a style that no caption names
    assert [p.text for p in job.prompts[:-1]] == [item.captions[0] for item in job.items[:3]]


# --- what drift is measured on


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"trigger_word": "zwx"}, {"a house", "a photo of in snow", "zwxy", ""}),
        ({"trigger_word": "zwx", "class_prompt": " a woman "}, {"a woman"}),
        ({}, {"zwx, a house", "a photo of zwx in snow", "zwxy", "zwx"}),
    ],
)
def test_drift_is_measured_without_the_trigger_word(
    encoder: CountingEncoder, cache: Cache, fields: dict[str, object], texts: set[str]
) -> None:
    captions = ("zwx, a house", "a photo of zwx in snow", "zwxy", "zwx")
    images = [image(str(number), caption) for number, caption in enumerate(captions)]
    job = planned(images, encoder, **fields)
    assert {one.text for one in job.class_prompts} == texts
    assert {one.image for one in job.class_prompts} == {item.id for item in job.items}
    filled(job, images, encoder, cache)
    assert all(cache.has("conditioning", one.conditioning) for one in job.class_prompts)
    assert planned(images, encoder, **fields, validation_steps=0).class_prompts == ()
    assert planned(images, encoder, **fields).run_id == planned(images, encoder, **fields, validation_steps=0).run_id


def test_drift_is_measured_on_a_few_images_that_are_trained_on(encoder: CountingEncoder) -> None:
    images = [image(f"{n:032x}") for n in range(30)]
    job = planned(images, encoder, validation_images=20)
    assert len(job.class_prompts) == 4
    assert {one.image for one in job.class_prompts} <= {item.id for item in job.train_items}
    again = planned(images[::-1], encoder, validation_images=20)
    assert set(again.class_prompts) == set(job.class_prompts)


def test_a_prompt_s_settings_are_in_the_job(encoder: CountingEncoder, cache: Cache) -> None:
    wish = {"prompt": "a", "negative": "fog", "seed": 3, "steps": 4, "guidance": 2.0, "strength": 1.0, "width": 64,
            "height": 72}  # fmt: skip
    job = planned(IMAGES, encoder, sample_prompts=[wish, "b"])
    first, second = job.prompts
    assert {name: getattr(first, "text" if name == "prompt" else name) for name in wish} == wish
    assert (second.negative, second.negative_conditioning, second.seed) == ("", job.empty, None)
    filled(job, IMAGES, encoder, cache)
    assert encoder.captions.count("fog") == 1


# --- shuffled captions


TAGS = "zwx, red hair, blue eyes, smile, hat, tree"


def test_tags_are_shuffled_ahead_with_the_trigger_word_and_the_kept_ones_in_front(encoder: CountingEncoder) -> None:
    (item,) = planned([image("a", TAGS)], encoder, caption_shuffle=True, keep_tokens=1, trigger_word="zwx").items
    assert 4 <= len(item.captions) <= 8
    assert len(set(item.captions)) == len(item.captions) == len(item.conditioning)
    for caption in item.captions:
        assert caption.startswith("zwx, red hair, ")
        assert sorted(caption.split(", ")) == sorted(TAGS.split(", "))
    again = planned([image("a", TAGS)], encoder, caption_shuffle=True, keep_tokens=1, trigger_word="zwx").items[0]
    other = planned([image("b", TAGS)], encoder, caption_shuffle=True, keep_tokens=1, trigger_word="zwx").items[0]
    assert again.captions == item.captions != other.captions


@pytest.mark.parametrize(
    "caption",
    [
        "a red house, with snow on its roof and a tree before it, in the evening light of a winter day",
        "A house. It is red, large, old.",
        "a house",
        "",
        "red, house",
    ],
)
def test_sentences_stay_as_they_are(encoder: CountingEncoder, caption: str) -> None:
    images = [replace(image("a"), captions=(caption,))]
    assert planned(images, encoder, caption_shuffle=True, sample_every=0).items[0].captions == (caption,)


def test_alternatives_take_turns_and_each_is_there(encoder: CountingEncoder) -> None:
    captions = ("a, b, c, d, e", "A picture of five letters.", "1, 2, 3, 4")
    (item,) = planned([replace(image("a"), captions=captions)], encoder, caption_shuffle=True).items
    kinds = [sum(kind(caption) for caption in item.captions) for kind in (
        lambda c: set(c) == set("abcde, "), lambda c: c == captions[1], lambda c: set(c) == set("1234, "),
    )]  # fmt: skip
    assert kinds == [2, 2, 2]
    plain = planned([replace(image("a"), captions=captions)], encoder).items[0]
    assert plain.captions == captions


@pytest.mark.parametrize("count", [2, 4, 8, 11])
def test_alternatives_keep_equal_shares_when_some_are_shuffled(encoder: CountingEncoder, count: int) -> None:
    captions = (TAGS, *(f"A sentence, number {number}." for number in range(count - 1)))
    (item,) = planned([replace(image("a"), captions=captions)], encoder, caption_shuffle=True).items
    shown = [item.captions.count(caption) for caption in captions[1:]]
    assert {*shown, len(item.captions) - sum(shown)} == {max(1, 8 // count)}
    assert len(item.conditioning) == len(item.captions)


# --- mirrored pictures, masks


def test_mirrored_pictures_are_encoded_as_pictures(encoder: CountingEncoder, cache: Cache) -> None:
    seen: list[float] = []
    encode = encoder.encode_images

    def watched(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels[..., -1].mean().item())
        return encode(pixels)

    encoder.encode_images = watched  # type: ignore[method-assign]
    job = planned(IMAGES, encoder, flip=True)
    assert len({key for item in job.items for key in (item.latents, item.flipped)}) == 6
    filled(job, IMAGES, encoder, cache)
    assert seen == [0.0, 1.0] * 3  # the white edge is at the right in the mirror
    assert all(not item.flipped for item in planned(IMAGES, encoder).items)


def test_a_card_is_given_batches_of_one_size_and_every_entry_is_its_own(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions in the order they come; pictures, with their mirror images, by their size."""
    images = [image(f"{n}", "x" * n, (64, 64) if n % 3 else (128, 64)) for n in range(1, 8)]
    shades = {one.id: torch.full((3, one.bucket[1], one.bucket[0]), int(one.id) / 10) for one in images}
    monkeypatch.setattr(prepare, "load_both", lambda item: (shades[item.id], shades[item.id][0]))
    several, alone = CountingEncoder(4), CountingEncoder()
    job = planned(images, several, flip=True)
    filled(job, images, several, cache)
    other = Cache(tmp_path / "other")
    filled(job, images, alone, other)
    assert several.pictures == [(4, 3, 64, 64), (4, 3, 64, 64), (2, 3, 64, 64), (4, 3, 64, 128)]
    assert (several.batches[:-1], len(several.captions)) == ([4] * (len(several.captions) // 4), len(alone.captions))
    assert set(alone.batches) == {1}
    for kind, key in job.cache_entries():
        ours, theirs = cache.load(kind, key), other.load(kind, key)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert {round(float(cache.load("latents", one.latents)["latents"].mean()) * 10) for one in job.items} == {
        *range(1, 8)
    }


def test_every_caption_is_encoded_even_if_the_encoder_takes_fewer_from_now_on(
    encoder: CountingEncoder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card that runs out of memory leaves the rest to the CPU, which takes one at a time."""
    encoder.texts_at_once, real = 4, encoder.encode_texts

    def out_of_memory(captions: Sequence[str]) -> list[dict[str, torch.Tensor]]:
        encoder.texts_at_once = 1
        return real(captions)

    monkeypatch.setattr(encoder, "encode_texts", out_of_memory)
    images = [image(f"{n}", f"caption {n}") for n in range(9)]
    job = planned(images, encoder)
    seen = filled(job, images, encoder, cache)
    assert all(cache.has(kind, key) for kind, key in job.cache_entries())
    done = [event.done for event in seen if isinstance(event, Phase) and event.name == "encoding captions"]
    assert done == [0, *range(4, len(encoder.captions))]


def test_a_mask_lies_beside_its_latents_at_their_size(
    encoder: CountingEncoder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = torch.zeros(128, 64)
    mask[:8, :4] = 1
    monkeypatch.setattr(prepare, "load_both", lambda item: (edged(item.bucket), mask if item.mask else None))
    images = (replace(image("a"), mask="alpha", mask_id="m"), image("b"))
    job = planned(images, encoder, mask="alpha")
    filled(job, images, encoder, cache)
    entry = cache.load("latents", job.items[0].latents)
    assert entry["mask"].shape == (1, 1, 16, 8)
    assert entry["mask"][0, 0, 0, 0] == 0.5
    assert entry["mask"].sum() == 0.5
    assert cache.load("latents", job.items[1].latents).keys() == {"latents"}
    plain = planned([image("a")], encoder)
    assert plain.items[0].latents != job.items[0].latents


# --- regularisation images


def regularised(encoder: CountingEncoder, count: int, **fields: object) -> Job:
    """Three images seen twice, and a number of regularisation images, one of them the same picture."""
    images = [replace(image(name), repeats=2) for name in ("a", "b", "c")]
    others = dataset(*(replace(image(name), captions=("",)) for name in "abcdefghij"[:count]))
    return plan(config(**fields), dataset(*images), BASE, encoder, Path("/cache"), regularisation=others)


@pytest.mark.parametrize("count", [1, 4, 6, 10])
def test_regularisation_images_are_shown_as_often_as_the_others(encoder: CountingEncoder, count: int) -> None:
    job = regularised(encoder, count, prior_weight=0.5, class_prompt="a woman")
    of_class = [item for item in job.items if item.id.startswith("reg-")]
    assert sum(item.repeats for item in of_class) == 6
    assert max(item.repeats for item in of_class) - min(item.repeats for item in of_class) <= 1
    assert {item.weight for item in of_class} == {0.5}
    assert {item.captions for item in of_class} == {("a woman",)}
    assert {item.weight for item in job.items if item not in of_class} == {1.0}
    assert len({item.id for item in job.items}) == len(job.items)


def test_regularisation_images_are_neither_held_out_nor_sampled(encoder: CountingEncoder, cache: Cache) -> None:
    job = regularised(encoder, 4, validation_images=2)
    assert all(not item.held_out for item in job.items if item.id.startswith("reg-"))
    assert sum(item.repeats for item in job.items if item.id.startswith("reg-")) == 2
    assert own(job) == ["a picture of " + item.id for item in job.items[:3] if not item.held_out]


def test_regularisation_images_are_encoded_too(encoder: CountingEncoder, cache: Cache) -> None:
    images, others = dataset(image("a")), dataset(image("r"))
    job = plan(config(), images, BASE, encoder, Path("/cache"), regularisation=others)
    fill(job, images, encoder, cache, regularisation=others, emit=lambda event: None)
    assert all(cache.has(kind, key) for kind, key in job.cache_entries())
    assert len(encoder.pictures) == 2


# --- what is not cached, what the host cannot do


def test_captions_of_text_encoders_that_are_trained_are_not_cached(encoder: CountingEncoder, cache: Cache) -> None:
    job = planned(IMAGES, encoder, train_text_encoder=True)
    filled(job, IMAGES, encoder, cache)
    assert encoder.captions == []
    assert len(encoder.pictures) == 3


def test_the_class_prompt_is_encoded(encoder: CountingEncoder, cache: Cache) -> None:
    job = planned(IMAGES, encoder, prior_preservation=1.0, class_prompt="a woman", sample_prompts=["x"])
    filled(job, IMAGES, encoder, cache)
    assert encoder.captions.count("a woman") == 1
    assert cache.has("conditioning", job.class_prompt)


def test_the_graph_refuses_to_train_text_encoders_by_name(encoder: CountingEncoder) -> None:
    with pytest.raises(ConfigError) as error:
        plan(config(train_text_encoder=True), dataset(*IMAGES), BASE, encoder, Path("/cache"), "host")
    assert error.value.problems == (
        "train_text_encoder: not in the graph, whose captions the wired CLIP encodes; train on the command line",
    )


def test_progress_is_told(encoder: CountingEncoder, cache: Cache) -> None:
    seen = filled(planned(IMAGES, encoder, sample_every=0), IMAGES, encoder, cache)
    assert seen == [
        *(Phase("encoding captions", n, 4) for n in range(4)),
        *(Phase("encoding images", n, 3) for n in range(3)),
    ]


def test_a_stop_ends_between_two_encodings_and_keeps_what_is_done(encoder: CountingEncoder, cache: Cache) -> None:
    job = planned(IMAGES, encoder)
    with pytest.raises(StoppedWhilePreparing):
        filled(job, IMAGES, encoder, cache, stop=lambda: len(encoder.pictures) == 2)
    assert len(encoder.pictures) == 2
    again = CountingEncoder()
    filled(job, IMAGES, again, cache)
    assert (len(again.captions), len(again.pictures)) == (0, 1)


def test_only_a_few_pictures_are_decoded_ahead_and_each_once(
    encoder: CountingEncoder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []

    def load(item: ImageItem) -> tuple[torch.Tensor, None]:
        decoded.append(item.id)
        return edged(item.bucket), None

    monkeypatch.setattr(prepare, "load_both", load)
    images = [image(f"{n:032x}") for n in range(40)]
    job = planned(images, encoder, flip=True)
    ahead: list[int] = []
    fill(
        job, dataset(*images), encoder, cache,
        emit=lambda event: ahead.append(len(decoded) - len(encoder.pictures) // 2), stop=lambda: False,
    )  # fmt: skip
    assert max(ahead) <= 1 + 4
    assert sorted(decoded) == [one.id for one in images]  # the mirror image is not decoded again
    assert len(encoder.pictures) == 80


def test_what_is_not_finite_is_no_part_of_the_cache(
    encoder: CountingEncoder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "encode_images", lambda pixels: torch.full((1, 4, 8, 8), torch.nan))
    job = planned(IMAGES, encoder)
    with pytest.raises(CacheError, match="latents that are not finite"):
        filled(job, IMAGES, encoder, cache)
    assert not cache.has("latents", job.items[0].latents)


def test_the_cache_is_trimmed_but_not_of_this_run_s_entries(encoder: CountingEncoder, cache: Cache) -> None:
    old = planned((image("old"),), encoder)
    filled(old, (image("old"),), encoder, cache)
    for kind, key in old.cache_entries():
        os.utime(cache.path(kind, key), (1000, 1000))  # long ago: what was used today another run may be reading
    job = planned(IMAGES, encoder)
    filled(job, IMAGES, encoder, Cache(cache.folder, limit=1))
    assert all(cache.path(kind, key).exists() for kind, key in job.cache_entries())
    assert not cache.path("latents", old.items[0].latents).exists()


# --- the held-out split


def held_out(images: Sequence[ImageItem], encoder: CountingEncoder, count: int, seed: int = 42) -> set[str]:
    job = planned(images, encoder, validation_images=count, seed=seed)
    return {i.id for i in job.items if i.held_out}


def test_images_are_held_out_by_their_content_and_the_seed(encoder: CountingEncoder) -> None:
    images = [image(f"{n:032x}") for n in range(12)]
    chosen = held_out(images, encoder, 3)
    assert len(chosen) == 3
    assert held_out(images[::-1], encoder, 3) == chosen  # whatever the order
    assert held_out(images, encoder, 2) < chosen
    assert held_out([replace(i, captions=("x",)) for i in images], encoder, 3) == chosen
    assert len({frozenset(held_out(images, encoder, 3, seed)) for seed in range(8)}) > 4
    assert held_out(images, encoder, 0) == set()


def test_a_duplicate_is_never_on_both_sides(encoder: CountingEncoder) -> None:
    images = [image(f"{n:032x}{copy}") for n in range(4) for copy in ("", "-2", "-3")]
    for seed in range(10):
        chosen = held_out(images, encoder, 1, seed)
        assert len(chosen) == 3
        assert len({name[:32] for name in chosen}) == 1


def test_pictures_that_look_alike_are_held_out_together(encoder: CountingEncoder, tmp_path: Path) -> None:
    """Saved again in another format, size and brightness: other bytes, but the same picture."""
    for number, drawing in enumerate(world.neon_drawings()[:6]):
        drawing.image.save(tmp_path / f"{number}.png")
        drawing.image.resize((160, 160)).save(tmp_path / f"{number} larger.jpg", quality=80)
        ImageEnhance.Brightness(drawing.image).enhance(1.04).save(tmp_path / f"{number} brighter.png")
    images = scan(tmp_path, resolution=128).items
    for seed in range(5):
        chosen = held_out(images, encoder, 2, seed)
        names = sorted(image.path.stem.partition(" ")[0] for image in images if image.id in chosen)
        assert len(names) == 6
        assert len(set(names)) == 2


def test_what_most_of_the_pictures_show_is_not_held_out(encoder: CountingEncoder) -> None:
    images = [image(f"{'f' * 32}{copy}") for copy in ("", "-2", "-3")] + [image(f"{n:032x}") for n in range(2)]
    for seed in range(5):
        assert {name[0] for name in held_out(images, encoder, 2, seed)} == {"0"}
    with pytest.raises(DatasetError, match="validation_images: 3 cannot be held out of 3 different images"):
        held_out(images, encoder, 3)


def test_duplicates_share_their_latents(encoder: CountingEncoder, cache: Cache) -> None:
    images = [image("f" * 32), image("f" * 32 + "-2")]
    job = planned(images, encoder)
    assert job.items[0].latents == job.items[1].latents
    filled(job, images, encoder, cache)
    assert len(encoder.pictures) == 1


@pytest.mark.parametrize("count", [3, 4])
def test_something_must_be_left_to_train_on(encoder: CountingEncoder, count: int) -> None:
    with pytest.raises(DatasetError, match=f"validation_images: {count} cannot be held out of 3 different images"):
        held_out(IMAGES, encoder, count)


def test_prompts_are_taken_from_what_is_trained(encoder: CountingEncoder) -> None:
    job = planned([image(f"{n:032x}") for n in range(3)], encoder, validation_images=2)
    assert own(job) == [job.train_items[0].captions[0]]


def test_nothing_of_a_picture_that_was_changed_meanwhile_is_kept(
    encoder: CountingEncoder, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(item: ImageItem) -> None:
        if item.id == "b":
            raise DatasetError("b.png: was changed")

    job = planned(IMAGES, encoder)
    monkeypatch.setattr(prepare, "check_unchanged", changed)
    with pytest.raises(DatasetError, match=r"b\.png: was changed"):
        filled(job, IMAGES, encoder, cache)
    there = {item.id: cache.has("latents", item.latents) for item in job.items}
    assert there["b"] is False
