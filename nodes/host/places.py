"""Where things lie in a ComfyUI: datasets, LoRAs, checkpoints, and the pack's private folder."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ...trainer.dataset.files import IMAGE_SUFFIXES
from ...trainer.errors import HostError

PRIVATE = "lora_darkroom"
DEEPEST, MOST_FOLDERS = 4, 500


def private() -> Path:
    """The pack's folder in the system user directory, which no route of ComfyUI reads or writes."""
    return Path(folder_paths.get_system_user_directory(PRIVATE))


def runs() -> Path:
    """Where runs lie, one folder each, named by its identity."""
    return private() / "runs"


def cache() -> Path:
    """The one cache of latents and conditioning."""
    return private() / "cache"


def bases() -> Path:
    """Where the patched weights of a MODEL are exported to."""
    return private() / "bases"


def input_folders() -> list[str]:
    """Folders below ComfyUI's input with images in them or below them, relative, with forward slashes."""
    root = Path(folder_paths.get_input_directory())
    found: dict[str, None] = {}
    for folder, below, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        below[:] = sorted(name for name in below if not name.startswith((".", "_")))
        if len(relative.parts) >= DEEPEST or len(found) >= MOST_FOLDERS:
            below.clear()
        if relative.parts and any(_is_image(name) for name in files):
            above = [parent for parent in reversed(relative.parents) if parent.parts]
            found |= dict.fromkeys(path.as_posix() for path in (*above, relative))
    return list(found)


def dataset_folder(text: str) -> Path:
    """The folder that a user named: a folder below ComfyUI's input, or an absolute path.

    Raises:
        HostError: there is no such folder.
    """
    named = text.strip().strip("\"'").strip()  # Windows' "Copy as path" adds quotes
    if not named:
        raise HostError("no dataset folder is chosen", "choose a folder below ComfyUI's input, or type a path")
    root = Path(folder_paths.get_input_directory())
    path = Path(named).expanduser()
    if not path.is_absolute():
        path = root / path
    if not path.is_dir():
        what = "is a file, expected a folder" if path.is_file() else "does not exist"
        raise HostError(f"dataset folder: {path} {what}", f"put a folder with images into {root}, or type its path")
    return path


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
    for kind in ("checkpoints", "diffusion_models"):
        found = folder_paths.get_full_path(kind, name)
        if found:
            return Path(found)
    raise HostError(f"base_file: there is no checkpoint {name}", "choose one of the list")


def loras() -> list[str]:
    """Names of the LoRA files that ComfyUI knows."""
    return folder_paths.get_filename_list("loras")


def lora(name: str) -> Path:
    """The file of a LoRA's name.

    Raises:
        HostError: there is none.
    """
    found = folder_paths.get_full_path("loras", name)
    if not found:
        raise HostError(f"lora_name: there is no LoRA {name}", "choose one of the list")
    return Path(found)


def new_lora_folder(subfolder: str) -> Path:
    """A folder for new LoRAs: ``subfolder`` below ComfyUI's first loras folder, made when missing.

    Raises:
        HostError: it would lie outside.
    """
    root = Path(folder_paths.get_folder_paths("loras")[0])
    folder = root / subfolder
    if not folder_paths.is_within_directory(str(root), str(folder)):
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


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
