"""The documents say what is true: their blocks run, their tables are the code's, their links lead somewhere."""

import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import fastnst_kernels
import pytest
from documents import Block, blocks_of, check_unrun, small_commands, small_python
from drawn import drawn
from PIL import Image, ImageDraw

import fastnst
from bench import highres_tables, options_table, report
from bench.command_reference import command_reference, subcommands
from bench.documentation import COMMANDS, outside_files, site_links
from bench.page_tables import replaced
from fastnst.app.cli import build_parser, main
from fastnst.transfer import stylizer

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted(
    str(path.relative_to(REPOSITORY)) for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
)
PICTURES, SIZE = ("content.jpg", "style.jpg", "style2.jpg", "style3.jpg", "photos/1.jpg", "photos/2.jpg"), (96, 72)


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def networks() -> stylizer.Networks:
    return stylizer.Networks(kept=4)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, networks: stylizer.Networks) -> Path:
    """The current folder, with the pictures that the examples name; each network is loaded once for all of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stylizer, "Networks", lambda: networks)
    drawn(tmp_path, *PICTURES, size=SIZE)
    for name, top, bottom in (("sky.png", 0, 40), ("land.png", 41, 71), ("land_of_style2.png", 20, 71)):
        mask = Image.new("L", SIZE, 0)
        ImageDraw.Draw(mask).rectangle((0, top, SIZE[0], bottom), fill=255)
        mask.save(name)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if "```" in text_of(page)])
def test_the_blocks_of_a_page_run(page: str, workplace: Path) -> None:
    # The README shows some of what the pages do, and those run it.
    others = [other for other in PAGES if page == "README.md" and other != page]
    shell = [
        block for other in others for block in blocks_of(text_of(other)) if block.is_run and block.language == "sh"
    ]
    elsewhere = [arguments for block in shell for arguments in small_commands(block.text)]
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks_of(text_of(page)):
        run(block, page, names, elsewhere)


def run(block: Block, page: str, names: dict[str, object], elsewhere: list[list[str]]) -> None:
    where = f"{page}:{block.line}"
    if block.file is not None:
        Path(block.file).write_text(block.text, encoding="utf-8")
    elif block.source is not None:
        assert block.text.strip() in text_of(block.source), f"{where} is not in {block.source} as it is here"
    elif not block.is_run and block.language == "sh":
        check_unrun(block.text)
    elif block.is_run and block.language == "python":
        exec(compile(small_python(block.text), where, "exec"), names)
    elif block.is_run and block.language == "sh":
        for arguments in small_commands(block.text):
            if arguments not in elsewhere:
                # The README's commands are for the repository's folder.
                here = [word if Path(word).exists() else str(_in_repository(word)) for word in arguments]
                assert exit_code(here) == 0, f"{where}: fastnst {' '.join(here)}"


def exit_code(arguments: list[str]) -> int | str | None:
    try:
        return main(arguments)
    except SystemExit as end:  # --help
        return end.code


def _in_repository(word: str) -> str | Path:
    # A name without a folder may be an output that was made here before.
    return REPOSITORY / word if "/" in word and (REPOSITORY / word).is_file() else word


@pytest.mark.parametrize("module", [highres_tables, options_table, report])
def test_tables_are_those_of_the_results_and_the_code(module: Any) -> None:
    page = module.PAGE.read_text(encoding="utf-8")
    assert replaced(page, module.tables(), module.MODULE) == page, f"write it with `python -m {module.MODULE} --write`"


def test_the_reference_has_every_command_and_argument() -> None:
    assert COMMANDS in text_of("docs/commands.md")
    reference = command_reference()
    for name, parser in subcommands(build_parser()).items():
        assert f"## fastnst {name}\n" in reference
        assert str(parser.description) in reference
    assert "fastnst stylize CONTENT STYLE [STYLE …] -o OUT [--config FILE]" in reference


@pytest.mark.parametrize("package", [fastnst, fastnst_kernels], ids=["fastnst", "fastnst_kernels"])
def test_the_reference_has_every_public_name(package: ModuleType) -> None:
    page = text_of({"fastnst": "docs/api/fastnst.md"}.get(package.__name__, "docs/api/kernels.md"))
    assert [name for name in package.__all__ if not re.search(rf"[.`]{name}[\n`]", page)] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    for link in re.findall(r'(?:\]\(|src=")(?![a-z]+:|#)([^)"#\s]+)', text):
        assert (REPOSITORY / page).parent.joinpath(link).exists(), link


def test_links_become_those_of_the_site() -> None:
    outside = outside_files(REPOSITORY)
    text = '[a](../CHANGELOG.md) <img src="../bench/results/roofline.png"> [b](paper.md#x) [c](https://d.e) [f](#g)'
    moved = '[a](changelog.md) <img src="results/roofline.png"> [b](paper.md#x) [c](https://d.e) [f](#g)'
    assert site_links(text, "figures.md", outside) == moved
    assert site_links("[a](docs/paper.md) [b](README.md#tests)", "contributing.md", outside) == (
        "[a](paper.md) [b](index.md)"
    )
    assert site_links("[a](../paper.md)", "api/fastnst.md", outside) == "[a](../paper.md)"
    assert all((REPOSITORY / source).exists() for source in outside)


def test_the_citation_is_of_this_version() -> None:
    citation = text_of("CITATION.cff")
    assert f"\nversion: {fastnst.__version__}\n" in citation


def test_the_oldest_versions_are_those_that_are_allowed() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["web"]]
    lowest = dict(re.findall(r"^([a-z]+)(?:\[.*\])?>=([0-9.]+)", "\n".join(wanted), re.MULTILINE))
    listed = dict(re.findall(r"^([a-z]+)==([0-9.]+)$", text_of("constraints-oldest.txt"), re.MULTILINE))
    assert lowest.keys() == listed.keys()
    assert [name for name, version in listed.items() if not f"{version}.".startswith(f"{lowest[name]}.")] == []
