"""Captioning models of transformers at toy size: real classes of models and processors, random weights, no network.

As a program it builds some and says what they write, for a Python that has what this one lacks (torchvision):
``PYTHONPATH=. python tests/trainer/captioning/toys.py FOLDER qwen3_vl`` prints what ``answers`` returns, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainer.captioning import get
from trainer.captioning.base import Place, Wish
from trainer.captioning.prompts import TOKENS

WORDS = (
    *("red", "green", "blue", "light", "dark", "small", "large", "old", "new", "on", "under", "near", "with", "and"),
    *("house", "tree", "cat", "dog", "boat", "man", "woman", "child", "sky", "sea", "sand", "road", "river", "bridge"),
    *("walks", "sleeps", "runs", "stands", "sits", "stone", "field"),
)
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
IMAGE = "<image>"
QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
# As JoyCaption's: a message is a text, and the picture's token is put in front of it.
TEXT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}" + IMAGE + " {% endif %}"
    "{{ message['content'].strip() + eos_token }}{% endfor %}"
)
# As Qwen's: a message is a list of parts.
PARTS_TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}</s>{% endfor %}"
)
HIDDEN = 32
WISH = Wish(length="short", prompt="what is near the red house")
# With these the three pictures get three texts, some of which are longer than is let.
SEEDS = {"blip": 8, "florence2": 7, "llava": 3, "qwen2_5_vl": 9, "qwen3_vl": 7}
# How the real ones' folders say that they write: some draw, which captions must not.
DRAWN = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
GENERATION = {
    "florence2": {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3},
    "llava": {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    "qwen2_5_vl": {**DRAWN, "repetition_penalty": 1.05},
    "qwen3_vl": DRAWN,
}
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 2 * HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.5,
}


def build(kind: str, folder: Path) -> Path:
    """Writes a model with its processor, as a download from the hub has them."""
    tokenizer = _TOKENIZERS[kind]()
    torch.manual_seed(SEEDS[kind])
    model, processor = _BUILDERS[kind](tokenizer)
    model.generation_config.update(**GENERATION.get(kind, {}))
    processor.save_pretrained(folder)
    model.eval().save_pretrained(folder)
    return folder


def pictures() -> list[Image.Image]:
    """Three pictures of different sizes, none of which look alike."""
    rng = np.random.default_rng(0)
    kinds = (((64, 64), (255, 40, 40)), ((96, 64), (30, 255, 60)), ((56, 112), (20, 20, 255)))
    noise = [rng.random((height, width, 3)) * tint for (width, height), tint in kinds]
    return [Image.fromarray(pixels.astype(np.uint8)) for pixels in noise]


def answers(kind: str, folder: Path) -> dict[str, list[str]]:
    """What a toy writes of ``pictures``: ``batch`` and ``single`` by its captioner, ``plain`` by transformers alone."""
    build(kind, folder)
    captioner = get(NAMES[kind])
    images = pictures()
    paths = [folder / f"{index}.png" for index in range(len(images))]
    with captioner.open(WISH, Place(folder, batch=len(images))) as session:
        batch = session.caption(paths, images)
    with captioner.open(WISH, Place(folder, batch=1)) as session:
        single = session.caption(paths, images)
    return {"batch": batch, "single": single, "plain": _plain(kind, folder, images, WISH.prompt)}


def _plain(kind: str, folder: Path, images: Sequence[Image.Image], prompt: str) -> list[str]:
    """The same by the classes and calls that the models' cards show, one picture after the other.

    A text that was cut off is given without its last word, which may not be whole.
    """
    import transformers

    classes = {
        "blip": ("BlipForConditionalGeneration", "BlipProcessor"),
        "florence2": ("Florence2ForConditionalGeneration", "Florence2Processor"),
        "llava": ("LlavaForConditionalGeneration", "LlavaProcessor"),
        "qwen2_5_vl": ("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
        "qwen3_vl": ("Qwen3VLForConditionalGeneration", "Qwen3VLProcessor"),
    }
    model, processor = (getattr(transformers, name).from_pretrained(folder) for name in classes[kind])
    texts = {
        "florence2": "<CAPTION>",
        "llava": f"<s>You are a helpful image captioner.</s>{IMAGE} {prompt}</s>",
        "qwen2_5_vl": f"<|vision_start|><|image_pad|><|vision_end|>{prompt}</s>",
        "qwen3_vl": f"<|vision_start|><|image_pad|><|vision_end|>{prompt}</s>",
    }
    found = []
    for image in images:
        text: dict[str, Any] = {"text": texts[kind]} if kind in texts else {}
        if kind == "llava":
            text["add_special_tokens"] = False  # the text begins with <s> already
        inputs = processor(images=image, return_tensors="pt", **text)
        tokens = model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS["short"])[0]
        if kind not in ("blip", "florence2"):
            tokens = tokens[inputs["input_ids"].shape[1] :]
        words = processor.decode(tokens, skip_special_tokens=True).split()
        cut = len(tokens) >= TOKENS["short"] and int(tokens[-1]) not in processor.tokenizer.all_special_ids
        found.append(" ".join(words[:-1] if cut else words))
    return found


def _words() -> Any:
    """A tokenizer as JoyCaption's, of transformers' general class."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL, IMAGE, *WORDS]
    words = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    # As Llama's: it begins every text, and so does the template of the chats.
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": IMAGE},
        model_input_names=["input_ids", "attention_mask"],
    )


def _pieces() -> Any:
    """BERT's tokenizer, with whole words alone."""
    from transformers import BertTokenizer

    with TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *WORDS]), "utf-8")
        return BertTokenizer.from_pretrained(folder)


def _bytes(name: str, **options: Any) -> Any:
    """A tokenizer of byte pairs, of the named class, with no more bytes than small letters."""
    import transformers

    blank = "\u0120"  # how it writes a blank
    vocabulary = [*SPECIAL, blank, *"abcdefghijklmnopqrstuvwxyz"]
    merges = []
    for word in WORDS:
        for end in range(len(word)):
            merges.append(f"{blank}{word[:end]} {word[end]}")
            vocabulary.append(f"{blank}{word[: end + 1]}")
    numbered = {token: index for index, token in enumerate(dict.fromkeys(vocabulary))}
    with TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(numbered), "utf-8")
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges)]), "utf-8")
        return getattr(transformers, name).from_pretrained(folder, **options)


def _bart() -> Any:
    return _bytes("BartTokenizer", extra_special_tokens={"image_token": IMAGE})


def _qwen() -> Any:
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = _bytes("Qwen2Tokenizer", **tokens)
    tokenizer.add_tokens(list(QWEN), special_tokens=True)
    return tokenizer


def _blip(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    vision = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "encoder_hidden_size": HIDDEN, "sep_token_id": 2},
        vision_config={**vision, "image_size": 32, "patch_size": 8, "initializer_range": 0.5},
        projection_dim=HIDDEN,
        image_text_hidden_size=HIDDEN,
    )
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)
    return BlipForConditionalGeneration(config), processor


def _florence2(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        Florence2VisionConfig,
    )

    stages = 2
    config = Florence2Config(
        text_config=BartConfig(
            vocab_size=len(tokenizer),
            d_model=HIDDEN,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=HIDDEN,
            decoder_ffn_dim=HIDDEN,
            init_std=0.5,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=2,
        ).to_dict(),
        vision_config=Florence2VisionConfig(
            embed_dim=[HIDDEN] * stages,
            depths=[1] * stages,
            num_heads=[2] * stages,
            num_groups=[2] * stages,
            patch_size=[7, 3],
            patch_stride=[4, 2],
            patch_padding=[3, 1],
            patch_prenorm=[False, True],
            window_size=4,
            projection_dim=HIDDEN,
            initializer_range=0.5,
        ).to_dict(),
        image_token_id=tokenizer.image_token_id,
    )
    # 64 pixels are 8 x 8 places, and one for their mean.
    size = {"height": 64, "width": 64}
    images: Any = CLIPImageProcessor(size=size, crop_size=size, do_center_crop=False)
    images.image_seq_length = 65
    return Florence2ForConditionalGeneration(config), Florence2Processor(images, tokenizer)


def _llava(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        SiglipImageProcessor,
        SiglipVisionConfig,
    )

    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        vision_config=SiglipVisionConfig(
            hidden_size=HIDDEN,
            intermediate_size=HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    processor = LlavaProcessor(
        SiglipImageProcessor(size={"height": 32, "width": 32}),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="full",
        chat_template=TEXT_TEMPLATE,
    )
    return LlavaForConditionalGeneration(config), processor


def _qwen2_5_vl(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    rope = {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_scaling": rope},
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": HIDDEN,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        **_tokens(tokenizer),
    )
    limits = {"min_pixels": 28 * 28, "max_pixels": 28 * 28 * 64}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**limits),
        tokenizer,
        Qwen2VLVideoProcessor(**limits),
        chat_template=PARTS_TEMPLATE,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl(tokenizer: Any) -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 10000.0}
    config = Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 16, "vocab_size": len(tokenizer), "rope_scaling": rope},
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": HIDDEN,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        **_tokens(tokenizer),
    )
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(patch_size=16, min_pixels=32 * 32, max_pixels=32 * 32 * 64),
        tokenizer,
        Qwen3VLVideoProcessor(),
        chat_template=PARTS_TEMPLATE,
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _tokens(tokenizer: Any) -> dict[str, Any]:
    return {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in zip(("image", "video", "vision_start", "vision_end"), QWEN, strict=True)
    }


_BUILDERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "blip": _blip,
    "florence2": _florence2,
    "llava": _llava,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
}
_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "blip": _pieces,
    "florence2": _bart,
    "llava": _words,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
}
NAMES = {
    "blip": "blip",
    "florence2": "florence",
    "llava": "joycaption",
    "qwen2_5_vl": "qwen",
    "qwen3_vl": "qwen",
}

if __name__ == "__main__":
    base, *kinds = sys.argv[1:]
    print(json.dumps({kind: answers(kind, Path(base, kind)) for kind in kinds}))
