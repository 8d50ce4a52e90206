"""Where a captioner's model is: a folder that the user names, one of the models' folders, or the hub's cache.

Nothing is downloaded unless the user asks for it; then its size is said first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import CaptionError
from ..files import read_json
from .base import Captioner

WEIGHTS = ("*.safetensors", "*.onnx")
FILES = ("*.json", "*.txt", "*.model", "*.csv", "*.jinja")
"""What is downloaded of a model beside its weights; pickles are not."""


def find(
    captioner: Captioner,
    model: str,
    folders: Sequence[Path] = (),
    *,
    download: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """The folder or file of a captioner's model.

    Args:
        captioner: one that has a model.
        model: a path, a name in one of the folders, or a name on the hub; empty: the first in the folders that the
            captioner knows, else its usual one.
        folders: where models lie, such as ComfyUI's ``models/captioners``.
        download: whether it may be fetched from the hub.
        say: told the size before a download begins.

    Raises:
        CaptionError: there is none: what to put where.
    """
    if found := _here(captioner, model.strip(), folders):
        return found
    name = model.strip() or captioner.models[0]
    if _is_path(name):
        raise CaptionError(f"model: {name} does not exist", "Check the path, or leave it empty.")
    cached = _cached(name, wanted(captioner))
    if cached is not None:
        return cached
    if not download:
        where = f"put its folder into {folders[0]}" if folders else "name its folder"
        raise CaptionError(
            f"{captioner.name}: the model {name} is not on this machine",
            f"Download {name} from the Hugging Face hub and {where}; "
            "or allow the download (--download, or the node's switch).",
        )
    return _fetched(name, wanted(captioner), say)


def wanted(captioner: Captioner) -> list[str]:
    """Patterns of the files that a captioner reads. Folders on the hub often have the same weights in several kinds."""
    return [*FILES, "*.onnx" if "onnxruntime" in captioner.needs else "*.safetensors"]


def _here(captioner: Captioner, model: str, folders: Sequence[Path]) -> Path | None:
    if model:
        given = Path(model).expanduser()
        places = [given] if given.is_absolute() else [*(folder / model for folder in folders), given]
        # The hub's name is also known by its last part: a folder that was downloaded by hand.
        places += [folder / model.rpartition("/")[2] for folder in folders]
        return next((place.absolute() for place in places if place.exists()), None)
    for folder in folders:
        for one in sorted(folder.iterdir()) if folder.is_dir() else ():
            if one.is_dir() and captioner.knows(one):
                return one.absolute()
    return None


def _is_path(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or "\\" in name or name.count("/") > 1


def _cached(name: str, files: list[str]) -> Path | None:
    """The model in the hub's cache; None where a download of it has not come to its end."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        found = Path(snapshot_download(name, local_files_only=True, allow_patterns=files))
    except (OSError, HFValidationError):  # it is not there, or not whole: LocalEntryNotFoundError and the like
        return None
    return found if is_whole(found) else None


def is_whole(folder: Path) -> bool:
    """Whether a model's weights are all there: every part that an index names, else at least one file of them."""
    parts: set[str] = set()
    for index in folder.glob("*.safetensors.index.json"):
        parts |= set(read_json(index).get("weight_map", {}).values())
    if parts:
        return all((folder / part).is_file() for part in parts)
    return any(True for pattern in WEIGHTS for _ in folder.glob(pattern))


def _fetched(name: str, files: list[str], say: Callable[[str], None]) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import filter_repo_objects

    try:
        listed = HfApi().model_info(name, files_metadata=True).siblings or []
        names = set(filter_repo_objects((one.rfilename for one in listed), allow_patterns=files))
        size = sum(one.size or 0 for one in listed if one.rfilename in names)
        say(f"downloading {name}: {f'{size / 1e9:.1f} GB' if size >= 1e9 else f'{size / 1e6:.1f} MB'}")
        return Path(snapshot_download(name, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CaptionError(f"model: {name} cannot be downloaded: {error}", "Check its name and the network.") from None
