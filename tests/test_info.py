"""What `fastnst info` prints, of our metadata and of a stranger's."""

import html
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastnst.app import cli
from fastnst.image.write import save_image


def foreign(path: Path, metadata: str) -> str:
    text = PngInfo()
    text.add_itxt("XML:com.adobe.xmp", f"<fastnst:parameters>{html.escape(metadata)}</fastnst:parameters>")
    Image.new("RGB", (4, 4)).save(path, pnginfo=text)
    return str(path)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("a\nb\r\t\0\x7f\x9b", r"a\nb\r\t\x00\x7f\x9b"),
        ("name\u202egnp.exe", r"name\u202egnp.exe"),
        ("lone \ud83d", r"lone \ud83d"),
        ("Tübingen 夜 🎨 C:\\x", "Tübingen 夜 🎨 C:\\x"),
    ],
)
def test_what_would_steer_a_terminal_is_escaped(tmp_path: Path, value: str, shown: str, capsys: Any) -> None:
    path = foreign(tmp_path / "a.png", json.dumps({"content": value, value: {value: [value, 1]}}))
    assert cli.main(["info", path]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines() == [f"content    {shown}", f"{shown:10} {shown} {shown}; 1"]
    assert cli.main(["info", path, "--json"]) == 0
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.replace("\n", "").isprintable()
    assert json.loads(printed)["content"] == value


def test_it_needs_no_torch(tmp_path: Path) -> None:
    made = {"options": {"preset": "default", "size": 64}, "weights": {"source": "original"}}
    save_image(tmp_path / "a.png", torch.rand(3, 8, 8), parameters=made)
    code = "import sys; from fastnst.app import cli; cli.main(['info', sys.argv[1]]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, check=True)
    assert b"size 64" in done.stdout
    assert b"University of Oxford" in done.stdout
