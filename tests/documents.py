"""The code blocks of a Markdown page: what they are, and what of them runs small enough for a test.

A block is run unless a comment right above it says why not: `<!-- not run: reason -->`. `<!-- file: NAME -->` above a
block writes it into that file for the blocks below it, `<!-- from: PATH -->` says that it is an excerpt of that file.
"""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile

from fastnst.app.cli import build_parser

# What shows output, or is a file; it is not run.
DATA = ("text", "json", "toml", "csv", "bibtex")
# The README's own marks of the blocks that .ci/run runs.
RUN_ELSEWHERE = ("first-command", "tests")
SIZE, ITERATIONS = 48, 1
# Those that take the options of a run.
CALLS = (
    "stylize",
    "Stylizer",
    "PerceptualLoss",
    "train_network",
    "synthesize_texture",
    "reconstruct_content",
    "reconstruct_style",
)
COMMANDS = ("stylize", "batch", "grid", "texture", "reconstruct")

# The packages whose modules must be there; others may come with an extra.
_OURS = ("fastnst", "fastnst_kernels", "bench")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!-- (?P<kind>[a-z -]+?)(?:: (?P<value>.*?))? -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """A fenced block. `line` counts from 1; `reason` says why it is not run, `file` the file that it is for the blocks
    below, `source` the file of the repository that it is an excerpt of."""

    language: str
    text: str
    line: int
    reason: str | None = None
    file: str | None = None
    source: str | None = None

    @property
    def is_run(self) -> bool:
        return self.reason is None


def blocks_of(markdown: str) -> Iterator[Block]:
    """The fenced blocks in order. Raises ValueError for one that is neither run, nor data, nor marked."""
    for fence in _FENCE.finditer(markdown):
        line = markdown.count("\n", 0, fence.start()) + 1
        language = fence["language"].strip()
        text = re.sub(f"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE)
        comment = _COMMENT.search(markdown[: fence.start()])
        kind, value = (comment["kind"], comment["value"]) if comment else ("", None)
        reasons = {"not run": value, "from": "an excerpt", **dict.fromkeys(RUN_ELSEWHERE, "run by .ci/run")}
        reason = reasons.get(kind)
        if kind == "not run" and not value:
            raise ValueError(f"line {line}: the block is not run, and nothing says why; write <!-- not run: reason -->")
        named = {name: value if kind == name else None for name in ("file", "from")}
        block = Block(language, text, line, reason, named["file"], named["from"])
        if language not in (*DATA, "python", "sh"):
            raise ValueError(f"line {line}: a block of {language!r}; write python, sh or one of {', '.join(DATA)}")
        if language == "sh" and reason is None:
            for words in commands_of(text):
                if not _arguments(words):
                    raise ValueError(f"line {line}: {shlex.join(words)} is not run; mark it <!-- not run: reason -->")
        yield block


def small_python(text: str) -> str:
    """The same program with runs of a few pixels and iterations, and random weights in place of a download."""
    return ast.unparse(ast.fix_missing_locations(_Small().visit(ast.parse(text))))


def small_commands(text: str) -> list[list[str]]:
    """The arguments of each `fastnst` in a shell block, made small."""
    return [_small(_arguments(words)) for words in commands_of(text)]


def check_unrun(text: str) -> None:
    """Raises ValueError where a shell block that is not run names arguments or modules that do not exist."""
    for words in commands_of(text):
        if arguments := _arguments(words):
            try:
                build_parser().parse_args(arguments)
            except SystemExit as end:
                if end.code:
                    raise ValueError(f"{shlex.join(words)} is refused") from None
        elif "-m" in words[1:2] and "python" in words[0]:
            module = words[2]
            if module.partition(".")[0] in _OURS and importlib.util.find_spec(module) is None:
                raise ValueError(f"{shlex.join(words)}: there is no such module")


def commands_of(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line.replace("…", ""), comments=True):
            yield words


def _arguments(words: list[str]) -> list[str]:
    """The words after `fastnst`, `.venv/bin/fastnst` or `python -m fastnst`, also after torchrun; else nothing."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if {"|", ">", "<"} & set(words) or not words:
        return []
    program = words[0].split("/")[-1]
    if program == "torchrun" and "fastnst" in words:
        return words[words.index("fastnst") + 1 :]
    if words[0].startswith("python") and words[1:3] == ["-m", "fastnst"]:
        return words[3:]
    return words[1:] if program == "fastnst" else []


def _small(arguments: list[str]) -> list[str]:
    command = arguments[0]
    if command == "train":
        return [
            *_without(arguments, "--steps", "--minutes"),
            "--steps",
            "1",
            "--size",
            str(SIZE),
            "--weights",
            "random",
        ]
    if command not in COMMANDS:
        return arguments
    scales, iterations = _values(arguments, "--scales"), _values(arguments, "--iterations")
    rest = _without(arguments, "--size", "--iterations", "--scales", "--weights")
    counts = [str(ITERATIONS)] * min(2, len(iterations) or 1)
    small = [*rest, "--size", str(SIZE), "--weights", "random", "--iterations", *counts]
    if scales:
        small += ["--scales", *(scales if len(scales) == 1 else [str(SIZE // 2), str(SIZE)])]
    return small


def _without(arguments: list[str], *flags: str) -> list[str]:
    """The arguments less these flags and their values: all up to the next flag for those that take several."""
    kept: list[str] = []
    left = 0.0
    for word in arguments:
        if word in flags:
            left = float("inf") if word in ("--iterations", "--scales") else 1
        elif word.startswith("-") or left <= 0:
            left = 0
            kept.append(word)
        else:
            left -= 1
    return kept


def _values(arguments: list[str], flag: str) -> list[str]:
    after = arguments[arguments.index(flag) + 1 :] if flag in arguments else []
    words = takewhile(lambda word: not word.startswith("-"), after)
    return [value for word in words for value in word.split(",")]


class _Small(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("random") if node.value == "imagenet" else node

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name == "Schedule":
            node.keywords = [ast.keyword("steps", ast.Constant(1))]
        if name not in CALLS:
            return node
        values: dict[str, int | str] = {"size": SIZE, "weights": "random"}
        if name not in ("PerceptualLoss", "train_network"):
            values["iterations"] = ITERATIONS
        kept = [keyword for keyword in node.keywords if keyword.arg not in values]
        for keyword in kept:
            if keyword.arg == "scales" and isinstance(keyword.value, ast.List | ast.Tuple):
                keyword.value = ast.List([ast.Constant(SIZE // 2), ast.Constant(SIZE)], ast.Load())
        node.keywords = [*kept, *(ast.keyword(name, ast.Constant(value)) for name, value in values.items())]
        return node
