"""The trainer's messages, read from its source: every text that an f-string, a choice or an addition may become.

What is only known when it runs stands as ``UNKNOWN``. Statements are followed in order, both ways of each ``if`` are
taken, and functions of the same file are looked into, so a message put together in three lines is one text here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

from tests.conftest import REPO

UNKNOWN = "\u00a7"
MOST = 64  # texts of one expression; more are more than anybody writes

#: Where messages are, but for what the page does not show.
FOLDERS = {
    "trainer": {"demo", "importers", "languages", "linting.py", "models.py", "setup", "sweep.py"},
    "nodes": {"captions.py"},
}
#: Who takes a text: the place of the argument, its name, and the table of the page's translations that it belongs to.
TAKERS: dict[str, tuple[tuple[int, str, str], ...]] = {
    "Advice": ((1, "message", "message"), (2, "cure", "message")),
    "Diagnosis": ((1, "because", "because"), (3, "change", "change")),
    "Finding": ((1, "message", "finding"),),
    "Problem": ((2, "message", "problem"),),
    "_bad": ((1, "message", "problem"),),
    "Unusable": ((1, "message", "unusable"),),
    "_Wrong": ((1, "message", "problem"),),
    "Fault": ((0, "message", "fault"),),
    "NoAnswer": ((0, "message", "fault"),),
    "Row": ((3, "fault", "fault"),),
    "Warned": ((0, "message", "message"),),
    "_say": ((0, "message", "message"),),
    "say": ((0, "message", "message"),),
    "_tell": ((0, "message", "message"),),
    "_with": ((1, "why", "shortage"),),
    "_doubt": ((1, "what", "doubt"),),
    "Verdict": ((1, "text", "message"),),
    "Best": ((1, "reason", "reason"),),
    "RunStopped": ((1, "reason", "message"),),
    "RunFailed": ((0, "message", "error"), (1, "cure", "message")),
    "OutOfMemoryError": ((0, "message", "error"), (1, "cure", "message")),
    "DivergedError": ((0, "message", "error"), (1, "cure", "message")),
    "RunError": ((0, "message", "error"), (1, "cure", "message")),
    "CheckpointError": ((0, "message", "error"), (1, "cure", "message")),
    "ExportError": ((0, "message", "error"), (1, "cure", "message")),
    "DatasetError": ((0, "message", "error"), (1, "cure", "message")),
    "HostError": ((0, "message", "error"), (1, "cure", "message")),
    "AmbiguousName": ((0, "message", "fault"),),
    "WorkerError": ((0, "message", "error"), (1, "cure", "message")),
    "note": ((0, "text", "message"),),
}
CHOICES = "trainer/advisor/choices.py"  # it has lists of texts, too
PASSING = ("say", "_say", "_tell", "note")  # in nodes/ what methods of such names take is not on the panel
#: Files of nodes/ whose mistakes of a user the page shows before a run; those of others end one, and ComfyUI says them.
BEFORE = {"nodes/dataset.py", "nodes/host/places.py"}
#: Functions that give a text back, or a pair with one at the end.
GIVERS = {
    CHOICES: ("choice", ("_resolution", "_rank", "_alpha", "_held_out", "_batch", "_epochs")),
    "trainer/device.py": ("message", ("precision", "fastest")),
    "trainer/validation.py": ("reason", ("exhausted",)),
    "trainer/advisor/diagnosis.py": ("change", ("_less_memory", "_lower_rate")),
    "trainer/text/messages.py": ("fault", ("order",)),
    "trainer/captioning/label.py": ("message", ("__str__",)),
    "trainer/comparison.py": ("cell", ("rows",)),
    "trainer/loras/resize.py": ("message", ("report",)),
    "trainer/loras/merge.py": ("message", ("report",)),
    "trainer/text/lint.py": ("message", ("summary",)),
    "nodes/overview.py": ("message", ("words", "words_of_text")),
}
#: Lists that texts are appended to, by their files; that of choices has others, too.
LISTS = {
    CHOICES: {"parts": "choice"},
    "trainer/text/lint.py": {"parts": "amount"},
    "nodes/train.py": {"lines": "message"},
}
#: Dictionaries, and tuples, that hold texts.
HOLDERS = {
    "nodes/settings.py": {"DECIDED": "decider"},
    "trainer/comparison.py": {"HEAD": "cell"},
    "trainer/runstate.py": {"_STATES": "state"},
    "trainer/advisor/diagnosis.py": {"TROUBLES": "trouble"},
    "trainer/dataset/items.py": {"KINDS": "meaning"},
    "trainer/text/items.py": {"KINDS": "meaning"},
    "trainer/memory.py": {"_COSTS": "saving"},
    "trainer/validation.py": {"_NAMES": "signal"},
}


@dataclass(frozen=True)
class Several:
    """The texts of a list, in whatever order."""

    texts: tuple[Value, ...]


Value = str | tuple["Value", ...] | Several
Names = dict[str, list[Value]]


class Message(NamedTuple):
    """A text, the table that it belongs to, and the file that says it."""

    table: str
    text: str
    file: str


@cache
def messages() -> tuple[Message, ...]:
    """All messages that the page may show of a run, of a data set, or as what a node said, each once."""
    found: dict[Message, None] = {}
    for folder, others in FOLDERS.items():
        for path in sorted((REPO / folder).rglob("*.py")):
            if not others & {*path.relative_to(REPO / folder).parts}:
                found |= dict.fromkeys(_File(path).messages())
    return tuple(found)


class _File:
    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(REPO).as_posix()
        tree = ast.parse(path.read_text("utf-8"))
        self.constants: dict[str, ast.expr] = {}
        for node in tree.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(target, ast.Name) and node.value:
                self.constants[target.id] = node.value
        self.functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        self.by_name = {one.name: one for one in self.functions}
        self.inside: set[str] = set()  # functions that are being looked into
        self.found: list[Message] = []

    def messages(self) -> list[Message]:
        for one in self.functions:
            self.returns(one)
        table, givers = GIVERS.get(self.name, ("", ()))
        for name in givers:
            self.keep(table, [one[-1] if isinstance(one, tuple) else one for one in self.returns(self.by_name[name])])
        for name, table in HOLDERS.get(self.name, {}).items():
            held = self.constants[name]
            assert isinstance(held, (ast.Dict, ast.Tuple))
            for value in held.values if isinstance(held, ast.Dict) else held.elts:
                self.keep(table, self.texts(value.body if isinstance(value, ast.Lambda) else value, {}))
        return self.found

    def keep(self, table: str, values: Sequence[Value]) -> None:
        """Adds texts, as the page looks at them: line by line, and what has several parts part by part."""
        parts = "; |\n" if table == "choice" else "\n"
        texts = [one for one in _each(values) if isinstance(one, str) and one != "None"]
        lines = [re.sub("^ *- ", "", line) for one in texts for line in re.split(parts, one)]
        self.found += [Message(table, line, self.name) for line in lines if re.search("[a-z]", line)]

    def returns(self, function: ast.FunctionDef) -> list[Value]:
        """What a function may return, whatever it is given; its messages are kept."""
        if function.name in self.inside:
            return [UNKNOWN]
        self.inside.add(function.name)
        returned: list[Value] = []
        self.block(function.body, {}, returned)
        self.inside.discard(function.name)
        return _some(returned)

    def block(self, statements: Sequence[ast.stmt], names: Names, returned: list[Value]) -> None:
        for statement in statements:
            self.statement(statement, names, returned)

    def statement(self, node: ast.stmt, names: Names, returned: list[Value]) -> None:
        match node:
            case ast.Assign(targets=[ast.Attribute(attr="doing")]):
                self.keep("doing", self.texts(node.value, names))
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(values=values)):
                names[name] = [one for value in values for one in self.texts(value, names)] or [UNKNOWN]
            case ast.Assign(targets=[target]):
                self.bind(target, self.texts(node.value, names), names)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self.bind(target, self.texts(value, names), names)
            case ast.AugAssign(target=ast.Name(id=name), op=ast.Add()) if _is_list(names.get(name, [])):
                names[name] = [Several((*_each(names[name]), *_each(self.texts(node.value, names))))]
            case ast.AugAssign(target=ast.Name(id=name), op=ast.Add()):
                names[name] = _joined(names.get(name, [UNKNOWN]), self.texts(node.value, names))
            case ast.Return(value=ast.expr() as value):
                returned += self.texts(value, names)
            case ast.If():
                self.texts(node.test, names)
                other = dict(names)
                self.block(node.body, names, returned)
                self.block(node.orelse, other, returned)
                for name, values in other.items():
                    names[name] = _some([*names.get(name, []), *values])
                match node:  # what is empty does not come past it
                    case ast.If(test=ast.UnaryOp(op=ast.Not(), operand=ast.Name(id=name)), body=[*_, ast.Return()]):
                        names[name] = _not_empty(names, name)
            case ast.FunctionDef():
                pass  # it has its own turn
            case _:
                for part in ast.iter_child_nodes(node):
                    if isinstance(part, ast.stmt):
                        self.statement(part, names, returned)
                    elif isinstance(part, ast.expr):
                        self.texts(part, names)
                    elif isinstance(part, (ast.ExceptHandler, ast.match_case)):
                        self.block(part.body, names, returned)
                    elif isinstance(part, ast.withitem):
                        self.texts(part.context_expr, names)

    def bind(self, target: ast.expr, values: list[Value], names: Names) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = values
        elif isinstance(target, ast.Tuple):
            for place, one in enumerate(target.elts):
                parts = [v[place] for v in values if isinstance(v, tuple) and len(v) == len(target.elts)]
                self.bind(one, parts or [UNKNOWN], names)

    def texts(self, node: ast.expr, names: Names) -> list[Value]:
        """What an expression may become; the messages of the calls in it are kept."""
        match node:
            case ast.Constant(value=value):
                return [value if isinstance(value, str) else str(value)]
            case ast.JoinedStr(values=parts):
                return _joined(*(self.texts(part, names) for part in parts))
            case ast.FormattedValue(value=value):
                found = self.texts(value, names)
                return [UNKNOWN] if node.conversion != -1 or node.format_spec else found
            case ast.Name(id=name):
                if name in names:
                    return names[name]
                return self.texts(self.constants[name], {}) if name in self.constants else [UNKNOWN]
            case ast.IfExp(test=ast.Name(id=name)):
                full = {**names, name: _not_empty(names, name)}
                return _some([*self.texts(node.body, full), *self.texts(node.orelse, names)])
            case ast.IfExp():
                self.texts(node.test, names)
                return _some([*self.texts(node.body, names), *self.texts(node.orelse, names)])
            case ast.BoolOp(values=values):
                return _some([one for value in values for one in self.texts(value, names)])
            case ast.BinOp(left=left, op=ast.Add(), right=right) if not _is_number(left) and not _is_number(right):
                return _joined(self.texts(left, names), self.texts(right, names))
            case ast.Tuple(elts=elements) if not any(isinstance(one, ast.Starred) for one in elements):
                return _some(list(product(*(self.texts(one, names) for one in elements))))
            case ast.Subscript(value=ast.Name(id=name)) if isinstance(self.constants.get(name), ast.Dict):
                held = self.constants[name]
                assert isinstance(held, ast.Dict)
                return _some([one for value in held.values for one in self.texts(value, {})])
            case ast.Subscript(value=ast.Name(id=name)) if name in names:
                return names[name]
            case ast.List(elts=elements) if self.name == CHOICES:
                for element in elements:
                    self.keep("choice", self.texts(element, names))
                return [UNKNOWN]
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                inside = [one.value if isinstance(one, ast.Starred) else one for one in elements]
                return [Several(tuple(_each([text for one in inside for text in self.texts(one, names)])))]
            case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
                return [Several(tuple(self.texts(element, names)))]
            case ast.Call():
                return self.call(node, names)
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                self.texts(part, names)
        return [UNKNOWN]

    def call(self, node: ast.Call, names: Names) -> list[Value]:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        given = [self.texts(one, names) for one in node.args if not isinstance(one, ast.Starred)]
        named = {one.arg: self.texts(one.value, names) for one in node.keywords}
        passing = name in PASSING and isinstance(node.func, ast.Attribute) and self.name.startswith("nodes/")
        passing = passing or (name == "HostError" and self.name not in BEFORE)
        for place, keyword, table in () if passing else TAKERS.get(name, ()):
            self.keep(table, given[place] if place < len(given) else named.get(keyword, []))
        match node.func:
            case ast.Attribute(value=ast.Name(id="notes"), attr="insert"):
                self.keep("message", given[1])
            case ast.Attribute(value=ast.Name(id="notes") | ast.Attribute(attr="notes"), attr="append"):
                self.keep("message", given[0])
            case ast.Attribute(value=ast.Name(id=held), attr="append") if held in LISTS.get(self.name, {}):
                self.keep(LISTS[self.name][held], given[0])
            case ast.Attribute(value=ast.Name(id=held), attr="append") if _is_list(names.get(held, [])):
                names[held] = [Several((*_each(names[held]), *given[0]))]
            case ast.Attribute(value=ast.Constant(value="\n"), attr="join"):
                return _each(given[0])
        if name in ("count", "counted") and len(given) == 2:
            return _some([*_joined([f"{UNKNOWN} "], given[1], ["s"]), *_joined(["1 "], given[1])])
        if name == "setdefault" and len(given) == 2:
            return given[1]
        if isinstance(node.func, ast.Attribute):
            self.texts(node.func.value, names)
        own = self.by_name.get(name)
        return self.returns(own) if own is not None else [UNKNOWN]


def _joined(*parts: Sequence[Value]) -> list[Value]:
    texts = [[one if isinstance(one, str) else UNKNOWN for one in part] for part in parts]
    return _some(["".join(one) for one in product(*texts)])


def _some(values: Sequence[Value]) -> list[Value]:
    return list(dict.fromkeys(values))[:MOST]


def _each(values: Sequence[Value]) -> list[Value]:
    """The texts, and those of lists among them."""
    return [text for one in values for text in (_each(one.texts) if isinstance(one, Several) else [one])]


def _not_empty(names: Names, name: str) -> list[Value]:
    return [one for one in names.get(name, []) if one] or [UNKNOWN]


def _is_list(values: Sequence[Value]) -> bool:
    return any(isinstance(one, Several) for one in values)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not isinstance(node.value, str)
