"""What is missing or too old is named, with the command that mends it."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest

from trainer import dependencies
from trainer.errors import UserError


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions to be seen in place of the true ones; "" hides a package."""
    pretended: dict[str, str] = {}
    true = metadata.version

    def version(name: str) -> str:
        if name not in pretended:
            return true(name)
        if not pretended[name]:
            raise metadata.PackageNotFoundError(name)
        return pretended[name]

    monkeypatch.setattr(dependencies.metadata, "version", version)
    return pretended


def test_each_line_can_be_read_and_is_fulfilled_here():
    assert len(dependencies.wanted()) >= 12
    assert dependencies.faults() == []
    dependencies.check()


def test_every_package_of_a_training_is_in_the_requirements():
    names = {line.split(">")[0].split("<")[0].lower() for line in dependencies.wanted()}
    assert set(dependencies.TRAINING) <= names


def test_a_missing_and_an_old_package_are_named_with_the_cure(versions: dict[str, str]):
    versions.update(diffusers="0.30.1", peft="", matplotlib="")
    with pytest.raises(UserError) as caught:
        dependencies.check()
    assert caught.value.message == (
        "diffusers 0.30.1 is installed, diffusers<0.40,>=0.36 is needed; peft is not installed (peft>=0.17 is needed)"
    )
    assert caught.value.cure == (f'install with: {sys.executable} -m pip install "diffusers<0.40,>=0.36" "peft>=0.17"')
    assert [line for _, line in dependencies.faults()] == ["diffusers<0.40,>=0.36", "peft>=0.17", "matplotlib"]


def test_a_newer_diffusers_than_pip_would_choose_is_no_fault(versions: dict[str, str]):
    versions["diffusers"] = "0.42.1"
    dependencies.check()


def test_builds_of_torch_and_early_versions_count(versions: dict[str, str]):
    versions.update(torch="2.9.0+cu128", diffusers="0.37.0.dev0", peft="0.18.0rc1")
    assert dependencies.faults(dependencies.TRAINING) == []


def test_a_package_that_cannot_be_imported_is_named(versions: dict[str, str]):
    error = ImportError("cannot import name 'field_validator'\nfrom 'pydantic'", name="pydantic")
    assert dependencies.explained(error) == (
        "cannot import name 'field_validator' from 'pydantic'; install with: "
        f'{sys.executable} -m pip install --force-reinstall "pydantic>=2.0"'
    )
    assert dependencies.explained(ImportError("no", name="yaml")).endswith("--force-reinstall PyYAML")
    versions["pydantic"] = "1.10.2"
    assert dependencies.explained(error).startswith("pydantic 1.10.2 is installed, pydantic>=2.0 is needed; install")


@pytest.mark.parametrize("error", [ImportError("x", name="trainer.nothing"), ImportError("x"), KeyError("x")])
def test_a_fault_of_our_own_is_not_laid_on_a_package(error: Exception):
    assert dependencies.explained(error) == ""


def test_a_marker_is_heeded(tmp_path: Path):
    file = tmp_path / "requirements.txt"
    file.write_text('nobody-has-this; python_version < "3.0"\nnobody-has-that>=2  # why\n')
    assert dependencies.faults(file=file) == [
        ("nobody-has-that is not installed (nobody-has-that>=2 is needed)", "nobody-has-that>=2")
    ]
