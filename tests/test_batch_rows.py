"""The rows of a batch, made ready: what is wrong with one is said before the work begins."""

from dataclasses import replace
from pathlib import Path

import pytest
from batch_samples import SMALL, all_pairs

from fastnst.app.batch.manifest import ManifestError, Row
from fastnst.app.batch.tasks import make_tasks, missing_inputs, pair_rows, with_memory_shares
from fastnst.errors import ImageError, OptionError


def test_each_content_goes_with_each_style(folders: Path) -> None:
    for name in ("notes.txt", ".hidden.png"):
        (folders / "contents" / name).touch()
    (folders / "contents" / "more.png").mkdir()
    rows = pair_rows([str(folders / "contents"), "else.tif"], [str(folders / "styles" / "y.png")])
    assert [(Path(row.content).name, Path(row.styles[0]).name) for row in rows] == [
        ("a.png", "y.png"),
        ("b.png", "y.png"),
        ("else.tif", "y.png"),
    ]
    with pytest.raises(ImageError, match=r"style folder '.*more\.png' has no pictures"):
        pair_rows(["a.png"], [str(folders / "contents" / "more.png")])


def test_tasks_have_names_and_folders(folders: Path) -> None:
    rows = [Row("one", "a.png", ("x.png", "y.png")), Row("two", "b.png", ("x.png",), "own/name.jpg", {"size": 64})]
    tasks = make_tasks(rows, SMALL, folder=str(folders / "new"), pattern="{style}/{number:03}-{content}.webp")
    assert [task.output for task in tasks] == [f"{folders}/new/x+y/001-a.webp", f"{folders}/new/own/name.jpg"]
    assert (folders / "new" / "own").is_dir()
    assert [task.options.size for task in tasks] == [48, 64]
    (task,) = make_tasks([Row("one", "a.png", ("x.png",), "o.png")], SMALL, folder=None, root=str(folders))
    assert task.output == f"{folders}/o.png"


def test_automatic_weights_become_what_they_mean(tmp_path: Path) -> None:
    (task,) = make_tasks([Row("one", "a", ("x",))], {**SMALL, "weights": "auto"}, folder=str(tmp_path))
    assert task.given["weights"] == task.options.weights == "original"


REFUSED: dict[str, tuple[list[Row], str]] = {
    "choice": ([Row("one", "a", ("x",), "o.png", {"pooling": "min"})], "one: unknown pooling 'min'; choose one of"),
    "range": ([Row("one", "a", ("x",), "o.png", {"size": 1})], "one: size 1 is too small"),
    "unknown option": ([Row("one", "a", ("x",), "o.png", {"szie": 1})], "one: unknown option 'szie'"),
    "counts": ([Row("one", "a", ("x",), "o.png", {"style_weights": [1, 2]})], "one: 2 style weights for 1 style"),
    "device": ([Row("one", "a", ("x",), "o.png", {"device": "gpu"})], "one: unknown device 'gpu'"),
    "weights": ([Row("one", "a", ("x",), "o.png", {"weights": "no.pth"})], r"one: weights file no\.pth does not exist"),
    "extension": ([Row("one", "a", ("x",), "o.xyz")], r"one: output .* has the unknown extension '\.xyz'"),
    "folder": ([Row("one", "a", ("x",), "/no/where/o.png")], "one: output .*'/no/where' does not exist"),
    "same output": (
        [Row("one", "a", ("x",), "o.png"), Row("two", "b", ("x",), "./o.png")],
        "two: output .* is also that of one; name them apart",
    ),
    "same name": (
        [Row("one", "a.png", ("x",)), Row("two", "a.jpg", ("x",))],
        r"two: output '.*a_x\.png' is also that of one",
    ),
    "output is an input": (
        [Row("one", "a", ("x",), "o.png"), Row("two", "{out}/o.png", ("x",), "p.png")],
        r"one: output .* is also an input \(two\) and would be overwritten",
    ),
    "output is a start": (
        [Row("one", "a", ("x",), "o.png"), Row("two", "a", ("x",), "p.png", {"init": "{out}/o.png"})],
        r"one: output .* is also an input \(two\)",
    ),
    "several": (
        [Row("one", "a", ("x",), "o.png", {"size": 1}), Row("two", "a", ("x",), "p.png", {"size": 1})],
        r"one: size 1 .*\(and 1 more such row\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_cannot_be_run_are_refused(case: str, tmp_path: Path) -> None:
    rows, message = REFUSED[case]
    folder = str(tmp_path / "out")
    placed = [
        replace(
            row,
            content=row.content.format(out=folder),
            options={
                name: value.format(out=folder) if isinstance(value, str) else value
                for name, value in row.options.items()
            },
        )
        for row in rows
    ]
    with pytest.raises(ManifestError, match=message):
        make_tasks(placed, SMALL, folder=folder)


def test_an_output_needs_a_name_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="one: no output; write one into the row, or give a folder with -o"):
        make_tasks([Row("one", "a", ("x",))], SMALL, folder=None)
    for pattern, message in (
        ("{contents}.png", "unknown field"),
        ("{content.png", "cannot be read"),
        ("{}", "unknown"),
    ):
        with pytest.raises(OptionError, match=message):
            make_tasks([Row("one", "a", ("x",))], SMALL, folder=str(tmp_path), pattern=pattern)
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"output folder '.*file' cannot be made"):
        make_tasks([Row("one", "a", ("x",))], SMALL, folder=str(tmp_path / "file"))


def test_missing_pictures_are_failures_of_their_rows(folders: Path) -> None:
    a, x = str(folders / "contents/a.png"), str(folders / "styles/x.png")
    rows = [
        Row("fine", a, (x,)),
        Row("content", "missing.png", (x,)),
        Row("style", a, (x, str(folders))),
        Row("init", a, (x,), None, {"init": "nowhere.png"}),
    ]
    tasks = make_tasks(rows, SMALL, folder=str(folders / "out"), pattern="{number}.png")
    lost = missing_inputs(tasks)
    assert [(outcome.task.where, outcome.status) for outcome in lost] == [
        ("content", "failed"),
        ("style", "failed"),
        ("init", "failed"),
    ]
    assert lost[0].error == "content image 'missing.png' does not exist; check the path"
    assert "is a directory" in str(lost[1].error)


def test_workers_on_a_cpu_share_its_memory(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnst.app.batch.tasks.free_bytes", lambda _: 8_000_000_000)
    monkeypatch.setattr("fastnst.app.batch.tasks.held_bytes", lambda _: 500_000_000)
    (limited, *_), tasks = all_pairs(folders, max_memory="1GB"), all_pairs(folders)
    assert with_memory_shares(tasks, 1) == tasks
    shared = with_memory_shares([limited, *tasks], 4)
    assert [task.options.max_memory for task in shared] == [1_000_000_000] + [2_300_000_000] * 4
    assert shared[1].given["max_memory"] == 2_300_000_000
    monkeypatch.setattr("fastnst.app.batch.tasks.free_bytes", lambda _: None)
    assert with_memory_shares(tasks, 4) == tasks
