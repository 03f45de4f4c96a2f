"""The README says what is true: its table is the options', its examples run."""

import re
from pathlib import Path

import pytest

from bench.options_table import options_table

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_table_of_options_is_that_of_the_code() -> None:
    assert options_table() in README, "print it with `python -m bench.options_table`"


def test_there_is_an_example_for_each_use() -> None:
    assert len(PYTHON_BLOCKS) >= 2


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=range(len(PYTHON_BLOCKS)))
def test_the_examples_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = re.sub(r"size=\d+", "size=48, iterations=2, weights='random'", block)
    exec(compile(small, "README.md", "exec"), {})


def test_the_files_it_links_to_exist() -> None:
    links = re.findall(r"\]\((?!http|#)([^)#]+)", README) + re.findall(r'src="(?!http)([^"]+)"', README)
    assert links
    for link in links:
        assert (REPOSITORY / link).exists(), link
