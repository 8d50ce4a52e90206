"""Where things lie in a ComfyUI: datasets, LoRAs, checkpoints, and the pack's private folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

import folder_paths

from ...trainer.cache import Cache
from ...trainer.dataset.files import IMAGE_SUFFIXES
from ...trainer.errors import HostError
from ...trainer.text import looks_like_text
from ...trainer.text.files import SUFFIXES
from . import clients, compat

PRIVATE = "lora_darkroom"
DEEPEST, MOST_FOLDERS = 4, 500
ADDED = "lora_darkroom_datasets"  # a category of extra_model_paths.yaml
OTHER = "[datasets] "
CAPTIONERS = "captioners"  # a category of models
LANGUAGES, OTHERS_LANGUAGES = "language_models", ("llm", "LLM")  # likewise; and where other packs have theirs
_MODEL_NAME = re.compile(r"(?:(?!\.)[\w.-]+/)?(?!\.)[\w. -]*")  # of a folder, or owner/name
KINDS = ("datasets", ADDED)  # "datasets" is core's own; an old ComfyUI has none


def private() -> Path:
    """The pack's folder in the system user directory, which no route of ComfyUI reads or writes."""
    return Path(compat.system_user_directory(PRIVATE))


def runs() -> Path:
    """Where runs lie, one folder each, named by its identity."""
    return private() / "runs"


def cache() -> Path:
    """The one cache of latents and conditioning."""
    return private() / "cache"


def index() -> Path:
    """What is known of pictures from earlier sessions, for ``trainer.dataset.scan``."""
    return Cache(cache()).index


def datasets() -> Path:
    """Where pictures that a graph gave lie, one folder for each set of them."""
    return private() / "datasets"


def temp() -> Path:
    """ComfyUI's folder for what is shown and then forgotten; made when missing."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def bases() -> Path:
    """Where the patched weights of a MODEL are exported to."""
    return private() / "bases"


def add_captioners() -> None:
    """Make ``models/captioners`` a folder of models, beside what extra_model_paths.yaml says of it."""
    folder_paths.add_model_folder_path(CAPTIONERS, str(Path(folder_paths.models_dir) / CAPTIONERS))


def captioner_folders() -> list[Path]:
    """Where models of captioners lie."""
    return [Path(folder) for folder in folder_paths.get_folder_paths(CAPTIONERS)]


def captioner_models() -> list[str]:
    """What lies there, by name."""
    found = (one.name for folder in captioner_folders() if folder.is_dir() for one in folder.iterdir())
    return sorted({name for name in found if not name.startswith((".", "put_"))})


def captioner_model(text: str, what: str) -> str:
    """A captioner's model as a user typed it: a path, a name in the folders for such models, or a name on the hub.

    Raises:
        HostError: the client is on another machine, and it is no such name.
    """
    name = _unquoted(text)
    if clients.foreign() and not _MODEL_NAME.fullmatch(name):
        raise HostError(
            f"{what}: {name} is a path, and another machine may name none",
            "name a model in ComfyUI's folder for captioners, or on the hub",
        )
    return name


def add_languages() -> None:
    """Make ``models/language_models`` a folder of models, with ``models/llm`` and ``models/LLM``, where they are."""
    for name in (LANGUAGES, *OTHERS_LANGUAGES):
        folder = Path(folder_paths.models_dir) / name
        if name == LANGUAGES or folder.is_dir():
            folder_paths.add_model_folder_path(LANGUAGES, str(folder))


def languages() -> list[str]:
    """Names of the language models there: folders of transformers, some below the name of whoever published them."""
    found: dict[str, None] = {}
    for root in map(Path, folder_paths.get_folder_paths(LANGUAGES)):
        for pattern in ("*/config.json", "*/*/config.json"):
            names = (file.parent.relative_to(root).as_posix() for file in sorted(root.glob(pattern)))
            found |= dict.fromkeys(name for name in names if not name.startswith("."))
    return sorted(found)


def language(name: str) -> Path:
    """The folder of a language model's name.

    Raises:
        HostError: there is none.
    """
    for root in folder_paths.get_folder_paths(LANGUAGES):
        folder = Path(root) / name
        if compat.is_within_directory(root, str(folder)) and (folder / "config.json").is_file():
            return folder
    raise HostError(f"model: there is no language model {name}", "choose one of the list, or type its path")


def input_root() -> Path:
    """ComfyUI's input folder."""
    return Path(folder_paths.get_input_directory())


def input_folders() -> list[str]:
    """Folders below ComfyUI's input with images or text in them or below them, relative, with forward slashes."""
    return _folders_with_data(input_root())


def other_folders() -> list[str]:
    """Such folders below ComfyUI's ``datasets`` and those that were added; a mark, then the relative path."""
    below = (_folders_with_data(Path(root)) for root in roots()[1:])
    return [f"{OTHER}{name}" for name in dict.fromkeys(name for names in below for name in names)]


def _folders_with_data(root: Path) -> list[str]:
    found: dict[str, None] = {}
    for folder, below, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        below[:] = sorted(name for name in below if not name.startswith((".", "_")))
        if len(relative.parts) >= DEEPEST or len(found) >= MOST_FOLDERS:
            below.clear()
        if relative.parts and any(_is_data(name) for name in files):
            above = [parent for parent in reversed(relative.parents) if parent.parts]
            found |= dict.fromkeys(path.as_posix() for path in (*above, relative))
    return list(found)


def readable(text: str, what: str) -> Path:
    """The path that a user typed, if the client who asks may read it; nothing need be there.

    Quotes of Windows' "Copy as path" are taken off, ``~`` is the home folder, and a relative path lies below ComfyUI's
    input. A client on this machine may name any path. One elsewhere (``clients.foreign``) may name what lies below
    ComfyUI's input, its ``datasets`` folders, or those of ``lora_darkroom_datasets`` in ``extra_model_paths.yaml``;
    its path is not looked at before that is sure.

    Args:
        text: what was typed.
        what: the name of the input, for errors.

    Returns:
        An absolute path, links in it as they are.

    Raises:
        HostError: nothing was typed, or the client may not read there.
    """
    named = _unquoted(text)
    if not named:
        raise HostError(f"{what}: it is empty", "type a path, or choose one")
    if "\0" in named:
        raise HostError(f"{what}: {named!r} is no path", "type it anew")
    try:
        home = Path(named).expanduser()
    except RuntimeError as error:
        raise HostError(f"{what}: {named}: {error}", "type the whole path") from None
    path = os.path.abspath(os.path.join(input_root(), home))
    if clients.foreign() and not any(compat.is_within_directory(root, path) for root in roots()):
        raise HostError(
            f"{what}: {named} lies outside of the folders that another machine may use",
            f"name a folder below ComfyUI's input; or, on the machine that it runs on, add the folder as "
            f"{ADDED} to extra_model_paths.yaml",
        )
    return Path(path)


def roots() -> list[str]:
    """The folders that clients on other machines may read: ComfyUI's input, its datasets, and those that were added."""
    known = (folder_paths.get_folder_paths(kind) for kind in KINDS if kind in folder_paths.folder_names_and_paths)
    return [str(input_root()), *(root for found in known for root in found)]


def named(text: str, what: str) -> Path:
    """As ``readable``, for what a user typed or chose from ``input_folders`` and ``other_folders``."""
    if text.startswith(OTHER):
        below = [os.path.join(root, text[len(OTHER) :]) for root in roots()[1:]]
        text = next(filter(os.path.isdir, below), next(iter(below), text))
    return readable(text, what)


def dataset_folder(text: str, what: str = "folder") -> Path:
    """The folder that a user named (see ``named``), or the file of text.

    Raises:
        HostError: there is no such folder, or the client may not read it.
    """
    path = named(text, what)
    is_file = os.path.isfile(path)  # of a name that no system takes both say no, where Path raises
    if not os.path.isdir(path) and not (is_file and looks_like_text(path)):
        fault = "is a file, expected a folder" if is_file else "does not exist"
        raise HostError(
            f"{what}: {path} {fault}",
            f"put a folder with images or text into {input_root()}, or type its path",
        )
    return path


def shown(folder: Path) -> str:
    """A folder's path for people: from ComfyUI's input on, where it lies below that."""
    root = input_root()
    inside = folder.is_relative_to(root)
    return f"input/{folder.relative_to(root).as_posix()}" if inside else folder.as_posix()


def checkpoints() -> list[str]:
    """Names of the checkpoints and diffusion models that training can read: safetensors files."""
    names = dict.fromkeys(
        name for kind in ("checkpoints", "diffusion_models") for name in folder_paths.get_filename_list(kind)
    )
    return [name for name in names if name.lower().endswith((".safetensors", ".sft"))]


def checkpoint(name: str) -> Path:
    """The file of a checkpoint's name.

    Raises:
        HostError: there is none.
    """
    return _file(name, "base_file", "checkpoint", "checkpoints", "diffusion_models")


def text_encoder(name: str) -> Path:
    """The file of a text encoder's name.

    Raises:
        HostError: there is none.
    """
    return _file(name, "clip_name", "text encoder", "text_encoders")


def loras() -> list[str]:
    """Names of the LoRA files that ComfyUI knows."""
    return folder_paths.get_filename_list("loras")


def lora(name: str) -> Path:
    """The file of a LoRA's name.

    Raises:
        HostError: there is none.
    """
    return _file(name, "lora_name", "LoRA", "loras")


def new_lora_folder(subfolder: str) -> Path:
    """A folder for new LoRAs: ``subfolder`` below ComfyUI's first loras folder, made when missing.

    Raises:
        HostError: it would lie outside.
    """
    root = Path(folder_paths.get_folder_paths("loras")[0])
    folder = root / subfolder
    if not compat.is_within_directory(str(root), str(folder)):
        raise HostError(f"filename: {subfolder} lies outside of the folder for LoRAs, {root}", "give a name without ..")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def forget_lora_list() -> None:
    """Make ComfyUI look into its loras folders again when it next needs their list."""
    folder_paths.filename_list_cache.pop("loras", None)


def lora_name(file: Path) -> str:
    """A LoRA file's name in ComfyUI's lists: relative to its loras folder."""
    for root in map(Path, folder_paths.get_folder_paths("loras")):
        if file.is_relative_to(root):
            return str(file.relative_to(root))
    return file.name


def _file(name: str, what: str, thing: str, *kinds: str) -> Path:
    """The file of a name in ComfyUI's lists of these kinds; ``what`` is the input, ``thing`` what it names."""
    for kind in kinds:
        found = folder_paths.get_full_path(kind, name)
        if found:
            return Path(found)
    raise HostError(f"{what}: there is no {thing} {name}", "choose one of the list")


def _unquoted(text: str) -> str:
    """What was typed, without blanks and the quotes of Windows' "Copy as path" around it."""
    return text.strip().strip("\"'").strip()


def _is_data(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES | SUFFIXES
