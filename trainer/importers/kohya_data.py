"""kohya's data set files (``[general]``, ``[[datasets]]``, ``[[datasets.subsets]]``) and prompt files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError

# What a data set file calls otherwise than the training options do.
_NAMES = {"image_dir": "train_data_dir", "num_repeats": "dataset_repeats", "batch_size": "train_batch_size"}
_PROMPT = {
    "prompt": "prompt", "negative_prompt": "negative", "seed": "seed", "sample_steps": "steps", "scale": "guidance",
    "width": "width", "height": "height",
}  # fmt: skip
_FLAGS = {"n": "negative", "d": "seed", "s": "steps", "l": "guidance", "w": "width", "h": "height"}


def flatten(data: Mapping[str, Any], source: str) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """A data set file as training options, and what of it there is no room for.

    A subset's values win over its data set's, and these over the general ones. A run has one folder of images and one
    of regularisation images: the first of each.

    Returns:
        the options, and (name, value) of every further folder.

    Raises:
        ConfigError: it has no data set, or one without folders.
    """
    general = data.get("general", {})
    found: dict[str, Any] = {}
    further: list[tuple[str, Any]] = []
    datasets = data["datasets"]
    if not isinstance(datasets, list) or not datasets or not all(isinstance(one, dict) for one in datasets):
        raise ConfigError(["datasets: expected [[datasets]] with [[datasets.subsets]] below it"], source)
    for dataset in datasets:
        subsets = dataset.get("subsets")
        if not isinstance(subsets, list) or not subsets:
            raise ConfigError(["datasets: one has no [[datasets.subsets]] with an image_dir"], source)
        own = {key: value for key, value in dataset.items() if key != "subsets"}
        for subset in subsets:
            options: dict[str, Any] = {**general, **own, **subset}
            folder = options.pop("image_dir", None)
            if folder is None:
                raise ConfigError(["datasets.subsets: one has no image_dir"], source)
            name = "reg_data_dir" if options.pop("is_reg", False) else "train_data_dir"
            if name in found:
                further.append(("image_dir", folder))
                continue
            found[name] = folder
            if name == "reg_data_dir" and options.get("class_tokens"):
                found["reg_class_tokens"] = options["class_tokens"]
            if name == "train_data_dir":  # the settings are those of the images that are trained
                found.update({_NAMES.get(key, key): value for key, value in options.items()})
    if "train_data_dir" not in found:
        raise ConfigError(["datasets.subsets: all are regularisation images (is_reg)"], source)
    return found, further


def prompts(path: Path) -> list[Any]:
    """The prompts of a file, as ``sample_prompts`` takes them.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            return [tidy_prompt(one) if isinstance(one, dict) else line(str(one)) for one in json.loads(text)]
        if path.suffix == ".toml":
            from .toml import loads

            common = loads(text, str(path)).get("prompt", {})
            return [tidy_prompt({**common, **one}) for one in common.get("subset", [])]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError([f"cannot be read as prompts: {error}"], str(path)) from None
    return [line(one.strip()) for one in text.splitlines() if one.strip() and not one.startswith("#")]


def line(text: str) -> Any:
    """A prompt as kohya writes it on a line: ``a house --n blurry --w 512 --h 768 --d 1 --l 7 --s 24``."""
    prompt, *flags = re.split(r"\s--(?=\w+ )", f"{text} ")
    found: dict[str, Any] = {"prompt": prompt.strip()}
    for flag in flags:
        name, _, value = flag.partition(" ")
        if name in _FLAGS:
            found[_FLAGS[name]] = value.strip()
    return _tidy(found)


def tidy_prompt(data: Mapping[str, Any]) -> Any:
    """A prompt with kohya's names of its parts, as ``sample_prompts`` takes it."""
    return _tidy({ours: data[theirs] for theirs, ours in _PROMPT.items() if theirs in data})


def _tidy(data: dict[str, Any]) -> Any:
    """Numbers as numbers, within our ranges; a bare prompt as a text. What is no number is left out."""
    found: dict[str, Any] = {name: str(data[name]) for name in ("prompt", "negative") if data.get(name)}
    limits = {
        "seed": (0, 2**63 - 1),
        "steps": (1, 1000),
        "guidance": (1, 50),
        "width": (64, 4096),
        "height": (64, 4096),
    }
    for name, (least, most) in limits.items():
        try:
            value = float(data[name])
        except (KeyError, TypeError, ValueError):
            continue
        if value < 0:  # kohya's and OneTrainer's way to say: another one each time
            continue
        value = min(max(value, least), most)
        found[name] = (
            value if name == "guidance" else int(value) // 8 * 8 if name in ("width", "height") else int(value)
        )
    found.setdefault("prompt", "")
    return found["prompt"] if found.keys() == {"prompt"} else found
