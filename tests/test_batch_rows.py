"""The rows of a batch, made ready: what is wrong with one is said before the work begins."""

from pathlib import Path
from typing import Any

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
    assert [Path(row.content).name for row in rows] == ["a.png", "b.png", "else.tif"]
    assert {Path(row.styles[0]).name for row in rows} == {"y.png"}
    with pytest.raises(ImageError, match=r"style folder '.*more\.png' has no pictures"):
        pair_rows(["a.png"], [str(folders / "contents" / "more.png")])


def test_tasks_have_names_and_folders(folders: Path) -> None:
    rows = [Row("one", "a.png", ("x.png", "y.png")), Row("two", "b.png", ("x.png",), "own/name.jpg", {"size": 64})]
    tasks = make_tasks(rows, SMALL, folder=str(folders / "new"), pattern="{style}/{number:03}-{content}.webp")
    assert [Path(task.output) for task in tasks] == [folders / "new/x+y/001-a.webp", folders / "new/own/name.jpg"]
    assert (folders / "new" / "own").is_dir()
    assert [task.options.size for task in tasks] == [48, 64]
    (task,) = make_tasks([Row("one", "a.png", ("x.png",), "o.png")], SMALL, folder=None, root=str(folders))
    assert Path(task.output) == folders / "o.png"


def test_automatic_weights_become_what_they_mean(tmp_path: Path) -> None:
    (task,) = make_tasks([Row("one", "a", ("x",))], {**SMALL, "weights": "auto"}, folder=str(tmp_path))
    assert task.options.weights == "original"


def row(where: str = "first", content: str = "a", output: str | None = "o.png", **options: Any) -> Row:
    return Row(where, content, ("x",), output, options)


REFUSED: dict[str, tuple[list[Row], str]] = {
    "choice": ([row(pooling="min")], "first: unknown pooling 'min'; choose one of"),
    "unknown option": ([row(szie=1)], "first: unknown option 'szie'"),
    "counts": ([row(style_weights=[1, 2])], "first: you gave 2 style weights for 1 style image;"),
    "device": ([row(device="gpu")], "first: unknown device 'gpu'"),
    "weights": ([row(weights="no.pth")], r"first: weights file no\.pth does not exist"),
    "extension": ([row(output="o.xyz")], r"first: output .* has the unknown extension '\.xyz'"),
    "folder": ([row(output="/no/where/o.png")], "first: output .*'/no/where' does not exist"),
    "same output": (
        [row(), row("two", output="./o.png")],
        "two: output .* is also the output of first; give each a name of its own",
    ),
    "same name": ([row(content="a.png", output=None), row("two", "a.jpg", None)], r"two: output '.*a_x\.png' is also"),
    "an input": ([row(), row("two", "out/o.png", "p.png")], r"first: output .* is also an input \(two\)"),
    "a start": ([row(), row("two", output="p.png", init="out/o.png")], r"first: output .* is also an input \(two\)"),
    "several": ([row(size=1), row("two", size=1)], r"first: size 1 .*\(and 1 more such row\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_rows_that_cannot_be_run_are_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows, message = REFUSED[case]
    with pytest.raises(ManifestError, match=message):
        make_tasks(rows, SMALL, folder="out")


def test_an_output_needs_a_name_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="first: the row names no output; write one into it"):
        make_tasks([row(output=None)], SMALL, folder=None)
    with pytest.raises(OptionError, match="unknown field"):
        make_tasks([row(output=None)], SMALL, folder=str(tmp_path), pattern="{}")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=r"output folder '.*file' cannot be made"):
        make_tasks([row()], SMALL, folder=str(tmp_path / "file"))


def test_missing_pictures_are_failures_of_their_rows(folders: Path) -> None:
    a, x = str(folders / "contents/a.png"), str(folders / "styles/x.png")
    rows = [Row("fine", a, (x,)), Row("content", "missing.png", (x,)), Row("style", a, (x, str(folders)))]
    rows.append(Row("init", a, (x,), None, {"init": "nowhere.png"}))
    tasks = make_tasks(rows, SMALL, folder=str(folders / "out"), pattern="{number}.png")
    lost = missing_inputs(tasks)
    assert [outcome.task.where for outcome in lost] == ["content", "style", "init"]
    assert {outcome.status for outcome in lost} == {"failed"}
    assert lost[0].error == "content image 'missing.png' does not exist; check the path"
    assert "is a directory" in str(lost[1].error)


def test_workers_on_a_cpu_share_its_memory(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnst.plan.machine.free_bytes", lambda _: 8_000_000_000)
    monkeypatch.setattr("fastnst.plan.machine.held_bytes", lambda _: 500_000_000)
    (limited, *_), tasks = all_pairs(folders, max_memory="1GB"), all_pairs(folders)
    assert with_memory_shares(tasks, 1) == tasks
    shared = with_memory_shares([limited, *tasks], 4)
    assert [task.options.max_memory for task in shared] == [1_000_000_000] + [2_300_000_000] * 4
    monkeypatch.setattr("fastnst.plan.machine.free_bytes", lambda _: None)
    assert with_memory_shares(tasks, 4) == tasks
