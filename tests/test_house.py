"""The house: what README, docs, configs and packaging say is true, and stays so."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO
from trainer import __main__ as program
from trainer import __version__
from trainer import config as configs
from trainer.config import TrainConfig

TRY = "pip install -r requirements.txt && python -m trainer demo"
TEST = "pip install -r requirements.txt -r tests/requirements.txt && python -m pytest"
READMES = ("README.md", "README.zh.md")
CONFIGS = sorted((REPO / "configs").glob("*.yaml"))
# Before Python 3.11 pytest brings tomli.
PYPROJECT = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli").loads(
    (REPO / "pyproject.toml").read_text(encoding="utf-8")
)


def tracked() -> list[Path]:
    """Every file of the project that git knows."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=REPO, capture_output=True, check=True
    ).stdout.decode()
    return [path for name in listed.split("\0") if name and (path := REPO / name).is_file()]


def text_of(path: Path) -> str | None:
    """The text of a file; None where it is no text."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


FILES = tracked()
PAGES = [path for path in FILES if path.suffix == ".md"]


def code_blocks(page: Path) -> Iterator[str]:
    """The lines of a page's fenced code blocks."""
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        yield from filter(None, map(str.strip, block.splitlines()))


# --- README and docs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READMES)
def test_readme_has_the_two_commands(name: str):
    lines = list(code_blocks(REPO / name))
    assert lines.count(TRY) == 1
    assert lines.count(TEST) == 1


def test_ci_runs_the_readmes_second_command():
    script = (REPO / ".ci" / "run").read_text(encoding="utf-8")
    assert TEST in script
    assert "set -euo pipefail" in script
    assert all(
        f"\n{check}\n" in script
        for check in ("ruff check .", "ruff format --check .", "pyright --project pyproject.toml")
    )
    subprocess.run(["bash", "-n", ".ci/run"], cwd=REPO, check=True)


def documented_commands() -> list[str]:
    found = {}
    for page in PAGES:
        for line in code_blocks(page):
            for part in line.split(" && "):
                if re.match(r"python (-m trainer|train\.py|tools/auto_label\.py)", part):
                    found[part] = page
    return list(found)


@pytest.mark.parametrize("command", documented_commands())
def test_documented_command_is_understood(command: str):
    words = shlex.split(command)[1:]
    start = {"-m": [], "train.py": ["train"], "tools/auto_label.py": ["caption"]}[words[0]]
    arguments = start + words[2 if words[0] == "-m" else 1 :]
    assert callable(program._parser(arguments).parse_args(arguments).run)


def test_the_commands_of_the_guide_are_documented():
    commands = "\n".join(documented_commands())
    for start in ("python train.py --config", "python tools/auto_label.py --input", "python -m trainer train --resume"):
        assert start in commands


def test_training_page_has_a_word_on_every_setting():
    named = set(re.findall(r"`(\w+)", (REPO / "docs" / "training.md").read_text(encoding="utf-8")))
    assert not TrainConfig.model_fields.keys() - named


def test_readmes_name_every_command():
    for page in READMES:
        used = set(re.findall(r"python -m trainer (\w+)", "\n".join(code_blocks(REPO / page))))
        assert not program.COMMANDS.keys() - used


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(REPO).as_posix())
def test_relative_links_lead_somewhere(page: Path):
    text = re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{link}: there is no such heading"


def test_documented_nodes_exist_and_none_is_missing():
    source = "".join(path.read_text(encoding="utf-8") for path in (REPO / "nodes").glob("*.py"))
    names = set(re.findall(r'display_name="([A-Z][^"]+)",\s*category=', source))
    assert len(names) >= 7
    for page in READMES:
        bold = set(re.findall(r"\*\*([A-Z][A-Za-z ]+)\*\*", (REPO / page).read_text(encoding="utf-8")))
        assert names <= bold, f"{page} does not name {names - bold}"


def test_templates_are_documented():
    templates = [path.stem for path in (REPO / "workflows").glob("*.json")]
    assert templates
    for page in READMES:
        text = (REPO / page).read_text(encoding="utf-8")
        assert not [name for name in templates if f"**{name}**" not in text]


def empty_fields(value: object) -> set[str]:
    """The names of fields that are null, in all of a JSON."""
    if isinstance(value, dict):
        return {name for name, one in value.items() if one is None}.union(*map(empty_fields, value.values()))
    return set().union(*map(empty_fields, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize("folder", ["workflows", "subgraphs"])
def test_shipped_graphs_are_as_a_page_saves_them(folder: str):
    """Null is a slot without a link, and nothing else: older pages call a graph with other nulls invalid."""
    for path in (REPO / folder).glob("*.json"):
        assert empty_fields(json.loads(path.read_text(encoding="utf-8"))) <= {"link", "links"}, path.name


def test_chinese_readme_calls_the_nodes_as_the_page_does():
    text = (REPO / "README.zh.md").read_text(encoding="utf-8")
    english, chinese = (
        json.loads((REPO / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
        for language in ("en", "zh")
    )
    for node, texts in english.items():
        assert f"**{texts['display_name']}** {chinese[node]['display_name']}" in text


# --- configs -------------------------------------------------------------------------------------------------------

# What each holds is tested with its writer: tests/trainer/setup/test_template.py.


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_names_and_explains_every_field(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    explained = [m[1] for line in lines if (m := re.match(r"\s*(\w+):[^#]*# \S", line))]
    assert sorted(explained) == sorted(TrainConfig.model_fields.keys() - {"auto"})  # auto is the value of others
    assert max(map(len, lines)) <= 120


def test_configs_are_known_by_their_names_and_train_the_same_effective_batch():
    assert {path.stem for path in CONFIGS} >= {"lora_default", "guide_3090", "sd15_8gb", "sd15_24gb", "sdxl_8gb"}
    assert {configs.load(path).window for path in CONFIGS} == {4}


# --- packaging -----------------------------------------------------------------------------------------------------


def test_one_version():
    assert PYPROJECT["project"]["version"] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert re.search(rf"^## {re.escape(__version__)}\b", (REPO / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)


def test_pyproject_is_what_the_registry_asks_for():
    project, comfy = PYPROJECT["project"], PYPROJECT["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", project["name"])
    assert "comfyui" not in project["name"]
    assert project["urls"]["Repository"].startswith("https://")
    assert project["readme"] == "README.md"
    assert (REPO / project["license"]["file"]).read_text("utf-8").split()[:3] == ["Apache", "License", "Version"]
    assert comfy.keys() >= {"PublisherId", "DisplayName", "requires-comfyui"}
    # Named twice, every script of the page would load twice.
    assert "web" not in comfy
    assert "WEB_DIRECTORY" in (REPO / "__init__.py").read_text(encoding="utf-8")


def requirement_lines(name: str) -> list[str]:
    lines = map(str.strip, (REPO / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


# With the least that ComfyUI 0.33 itself asks for.
SHIPPED_BY_COMFYUI = {
    "torch": None, "torchsde": None, "torchaudio": None, "numpy": "1.25", "einops": None, "transformers": "4.50.3",
    "tokenizers": "0.13.3", "sentencepiece": None, "safetensors": "0.4.2", "aiohttp": "3.11.8", "yarl": "1.18",
    "pyyaml": None, "pillow": "10.1", "scipy": None, "tqdm": None, "psutil": None, "requests": None, "pydantic": "2.0",
}  # fmt: skip


@pytest.mark.parametrize("line", requirement_lines("requirements.txt"))
def test_requirement_can_be_installed_alone_and_moves_nothing_of_comfyui(line: str):
    from packaging.requirements import Requirement
    from packaging.version import Version

    found = Requirement(line)  # one line, no option, no comment behind it
    assert not found.url
    name = found.name.lower()
    # Only what Python itself has from 3.11 on depends on its version: there it must not be installed for nothing.
    assert str(found.marker or "") == ('python_version < "3.11"' if name == "tomli" else "")
    assert name not in {"torchvision", "torchaudio", "xformers"}
    if name in SHIPPED_BY_COMFYUI:
        least = SHIPPED_BY_COMFYUI[name]
        for bound in found.specifier:
            assert bound.operator == ">=", f"{line}: ComfyUI decides its version"
            assert least is not None
            assert Version(bound.version) <= Version(least), f"{line}: ComfyUI is content with {least}"


def test_requirements_cover_the_imports():
    """Every third-party module that the program imports is required; the packages' names where they differ."""
    named = {"PIL": "pillow", "yaml": "pyyaml"}
    required = {re.split(r"[<>=!~ ;]", line)[0].lower() for line in requirement_lines("requirements.txt")}
    own = {"trainer", "nodes", "comfy_api"}
    missing = set()
    for path in sorted((REPO / "trainer").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            for module in (name.partition(".")[0] for name in modules):
                if module in sys.stdlib_module_names or module in own:
                    continue
                if named.get(module, module).lower() not in required:
                    missing.add(f"{module} ({path.relative_to(REPO).as_posix()})")
    assert not missing


# --- continuous integration ----------------------------------------------------------------------------------------

WORKFLOWS = sorted((REPO / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_workflow_is_one_and_says_that_it_has_not_run(path: Path):
    text = path.read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    assert True in data or "on" in data  # YAML 1.1 reads a bare `on` as true
    assert data["permissions"] == {"contents": "read"}
    for job in data["jobs"].values():
        assert job["runs-on"]
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
            assert "run" in step or re.fullmatch(r"[\w.-]+/[\w.-]+@[\w.-]+", step["uses"])
    assert "Syntax-checked only" in text.splitlines()[0]


def test_workflows_for_tests_and_publishing():
    assert [path.stem for path in WORKFLOWS] == ["publish", "tests"]
    publish, tests = (yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS)
    assert tests["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12"]
    assert publish[True] == {"push": {"tags": ["v*.*.*"]}}


def test_pre_commit_is_yaml_and_uses_our_ruff():
    data = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"] for repo in data["repos"] for hook in repo["hooks"]}
    assert hooks >= {"ruff-check", "ruff-format", "check-yaml", "end-of-file-fixer", "check-added-large-files"}


# --- every file ----------------------------------------------------------------------------------------------------

# Written so that this file does not find itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.~])/(?:" + "|".join(("root", "work", "home/[a-z]", "opt/[a-z]", "Users/[a-z]")) + r")\b"
)
HOSTS = [
    ".".join(parts)
    for parts in (("pypi", "org"), ("pythonhosted", "org"), ("download", "pytorch", "org"), ("npmjs", "org"),
                  ("huggingface", "co"), ("hf", "co"), ("registry", "comfy", "org"), ("docker", "io"), ("ghcr", "io"))
]  # fmt: skip


def test_no_file_names_a_machine_or_a_registry():
    found = []
    for path in FILES:
        text = text_of(path) or ""
        found += [f"{path.name}: {text[m.start() :][:40]!r}" for m in MACHINE_PATH.finditer(text)]
        found += [f"{path.name}: {h}" for h in HOSTS if re.search(rf"(?<![\w-]){re.escape(h)}\b", text)]
    assert not found


def test_every_text_has_unix_line_ends():
    assert not [path for path in FILES if "\r\n" in (text_of(path) or "")]


def test_every_python_file_is_cp1252():
    for path in FILES:
        if path.suffix == ".py":
            path.read_bytes().decode("utf-8").encode("cp1252")


def test_nothing_is_evaluated_or_installed_at_run_time():
    """What a review for the registry refuses."""
    found = []
    for path in FILES:
        if path.suffix != ".py" or path.relative_to(REPO).parts[0] not in {"trainer", "nodes", "tools"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                shell = "shell" in {keyword.arg for keyword in node.keywords}
                if shell or called in {"eval", "exec", "os.system", "pickle.load", "pickle.loads"}:
                    found.append(f"{path.name}:{node.lineno}: {called}")
            elif isinstance(node, ast.Constant) and node.value in {"pip", "ensurepip"}:
                found.append(f"{path.name}:{node.lineno}: {node.value}")
    assert not found
