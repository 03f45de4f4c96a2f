"""Metadata and checkpoints whose every value has been of every other type: commands go on, or say so in one line."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from drawn import drawn
from PIL import Image

import fastnst
from fastnst.app import cli
from fastnst.errors import FastnstError
from fastnst.image.metadata import read_parameters

ODD: list[Any] = [None, True, -1, 10**30, 1e308, "", "a\0b", "../../x", "conv9_9", [], [None], {}, {"sha256": 1}, [[]]]
SMALL: dict[str, Any] = {"size": 16, "scales": None, "iterations": 1, "weights": "random", "style_layers": "conv1_1"}
SMALL |= {"content_layers": "conv1_1", "device": "cpu", "tile": "none"}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values within one."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def mutations(record: Any) -> Iterator[tuple[str, Any]]:
    """The record with each of its values another, or missing."""
    for path in places(record):
        for odd in (*ODD, ...):
            changed = copy.deepcopy(record)
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            if odd is ...:
                del inner[path[-1]]
            else:
                inner[path[-1]] = odd
            yield f"{'.'.join(map(str, path))} = {odd!r}", changed


def command(*words: str) -> str | None:
    """The fault of a command that ends otherwise than it may."""
    try:
        code = cli.main([*words])
    except Exception as error:  # noqa: BLE001 - it is the finding
        return f"{type(error).__name__}: {error}"
    return None if code in (0, 1) else f"code {code}"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    content, style = drawn(tmp_path, "content.png", "style.png")
    Image.new("L", (16, 12), 255).save("mask.png")
    options = {**SMALL, "init": style, "masks": [{"style": Path("mask.png"), "content": Path("mask.png")}]}
    fastnst.stylize(content, style, checkpoint=tmp_path / "run.ckpt", **options).save(tmp_path / "out.png")
    return tmp_path


@pytest.mark.slow
def test_rerun_of_odd_metadata(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    record = read_parameters(made / "out.png")
    monkeypatch.setattr("fastnst.app.cli.rerun.execute", Mock(side_effect=FastnstError("as far as it shall go")))
    faults, count = {}, 0
    for name, changed in mutations(record):
        count += 1
        monkeypatch.setattr("fastnst.app.cli.rerun.read_parameters", lambda _, changed=changed: changed)
        if (fault := command("rerun", "out.png", "-o", "again.png", "--changed")) is not None:
            faults[name] = fault
        printed = capsys.readouterr().err
        if "Traceback" in printed:
            faults[name] = printed
    assert "\n".join(f"{name}: {fault}" for name, fault in faults.items()) == ""
    assert count > 1000


@pytest.mark.slow
def test_resume_of_odd_checkpoints(made: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    whole = torch.load(made / "run.ckpt")
    facts = json.loads(whole["run"])
    facts["losses"] = facts["losses"][:1]
    monkeypatch.setattr(
        "fastnst.transfer.prepared.Prepared.run", Mock(side_effect=FastnstError("as far as it shall go"))
    )
    faults = {}
    for name, changed in mutations(facts):
        torch.save({**whole, "run": json.dumps(changed)}, made / "odd.ckpt")
        if (fault := command("resume", "odd.ckpt", "-o", "again.png")) is not None:
            faults[name] = fault
        printed = capsys.readouterr().err
        if "Traceback" in printed:
            faults[name] = printed
    assert "\n".join(f"{name}: {fault}" for name, fault in faults.items()) == ""


def test_resume_of_odd_tensors(made: Path, capsys: Any) -> None:
    whole = torch.load(made / "run.ckpt")
    faults = {}
    for part in ("tensors", "optimizer"):
        for name in whole[part]:
            for odd in (None, torch.zeros(0), torch.zeros(3, 5, 5), torch.zeros(1, 3, 12, 16, dtype=torch.int64)):
                tensors = {**whole[part], name: odd}
                if odd is None:
                    del tensors[name]
                torch.save({**whole, part: tensors}, made / "odd.ckpt")
                if (fault := command("resume", "odd.ckpt", "-o", "again.png", "--quiet")) is not None:
                    faults[f"{part} {name} {odd if odd is None else tuple(odd.shape)}"] = fault
    assert "\n".join(f"{name}: {fault}" for name, fault in faults.items()) == ""
