"""Files that no command can use: damaged, hostile, foreign or empty ones, and good ones in the wrong place."""

import os
import pickle
import shlex
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn import drawn
from PIL import Image
from safetensors.torch import save_file

from fastnst.app import cli
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import save_image

SMALL = "--size 32 --iterations 2 --scales none --weights random --style-layers conv1_1 --content-layers conv1_1"


class _Code:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


def _write_pictures(folder: Path) -> None:
    drawn(folder, "content.png", "style.png", "out_00001.png", "again.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
    for name in ("cut.png", "cut.jpg"):
        noise.save(folder / name)
        (folder / name).write_bytes((folder / name).read_bytes()[:1500])
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    Image.new("L", (64, 48)).save(folder / "black.png")
    Image.new("L", (20, 60), 255).save(folder / "tall.png")
    Image.new("RGBA", (32, 32), (9, 9, 9, 0)).save(folder / "clear.png")
    texts = {"notes.txt": "no picture", "drawing.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>"}
    for name, text in {**texts, "paper.pdf": "%PDF-1.7\n", "empty.png": ""}.items():
        (folder / name).write_text(text)
    whole = (folder / "pixel.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + whole[24:29]
    (folder / "bomb.png").write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    np.save(folder / "nan.npy", np.full((20, 20, 3), np.nan, np.float32))
    np.save(folder / "large.npy", np.full((20, 20, 3), 255.0, np.float32))
    np.save(folder / "line.npy", np.zeros(7, np.float32))
    np.save(folder / "objects.npy", np.array([[{}, {}]], dtype=object), allow_pickle=True)
    (folder / "cut.npy").write_bytes((folder / "large.npy").read_bytes()[:300])


def _write_texts(folder: Path) -> None:
    """The configs and the manifests."""
    (folder / "configs" / "folder.toml").mkdir()
    configs: dict[str, str | bytes] = {
        "broken": "size = ",
        "latin": "# é".encode("latin-1"),
        "unknown": "style-wieght = 3",
        "twice": "style-weight = 3\nstyle_weight = 4",
        "type": 'size = "large"',
        "range": "size = 1",
        "table": "size = {of = 3}",
        "digits": f"size = {'9' * 5000}",
        "hexadecimal": f"size = 0x{'f' * 5000}",
        "deep": "size = " + "[" * 5000,
        "null": 'checkpoint = "run\\u0000.st"',
    }
    manifests: dict[str, str | bytes] = {
        "empty.csv": "content,style\n",
        "latin.csv": "content,style\né,b\n".encode("latin-1"),
        "column.csv": "content,style,szie\na,b,1\n",
        "style.csv": "content,style\na,\n",
        "quote.csv": 'content,style\n"a,b\n',
        "broken.jsonl": '{"content": "a"',
        "option.csv": "content,style,size\na,b,big\n",
        "range.jsonl": '{"content": "a", "style": "b", "output": "c.png", "size": 1}',
        "beyond.jsonl": f'{{"content": "a", "style": "b", "output": "c.png", "style_weight": 1{"0" * 400}}}',
        "twice.csv": "content,style,output\na,b,c.png\nd,e,c.png\n",
        "input.csv": "content,style,output\na.png,b,c.png\nd,e,a.png\n",
        "null.jsonl": '{"content": "a", "style": "b", "output": "a\\u0000.png"}',
    }
    texts = {f"configs/{name}.toml": text for name, text in configs.items()}
    for name, text in {**texts, **{f"manifests/{name}": text for name, text in manifests.items()}}.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def _write_weights(folder: Path) -> None:
    first = {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(64)}
    torch.save(first, folder / "cut.pth")
    save_file(first, folder / "cut.safetensors")
    for name in ("cut.pth", "cut.safetensors"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-2000])
    (folder / "empty.pth").touch()
    for name in ("text.pth", "text.safetensors"):
        (folder / name).write_text("no weights " * 10)
    (folder / "code.pth").write_bytes(pickle.dumps({"features.0.weight": _Code()}, protocol=2))
    torch.save([1, 2], folder / "list.pth")
    save_file({"layer.weight": torch.zeros(3)}, folder / "other.safetensors")
    save_file({**first, "features.0.weight": torch.zeros(3, 3)}, folder / "shape.safetensors")
    save_file({**first, "features.0.bias": torch.full((64,), torch.nan)}, folder / "nan.safetensors")


def _write_runs(folder: Path) -> None:
    """A picture that fastnst made, its checkpoint, and what they are when others meddle with them."""
    line = f"stylize content.png style.png -o made.png --checkpoint runs/run.st --quiet {SMALL}"
    assert cli.main(shlex.split(line)) == 0
    whole = (folder / "runs/run.st").read_bytes()
    (folder / "runs/cut.st").write_bytes(whole[:-100])
    middle = len(whole) // 2
    (folder / "runs/altered.st").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    torch.save({**torch.load(folder / "runs/run.st"), "format": 9}, folder / "runs/future.st")
    picture, record = load_image(folder / "made.png").rgb, read_parameters(folder / "made.png")
    save_image(folder / "little.png", picture, parameters={})
    foreign: dict[str, Any] = {"options": {}, "content": {}, "styles": [], "weights": {}}
    save_image(folder / "inputless.png", picture, parameters=foreign)
    save_image(folder / "startless.png", picture, parameters={**foreign, "content": {"name": "a"}})
    save_image(folder / "odd.png", picture, parameters={**record, "options": {**record["options"], "warp": 9}})
    save_image(folder / "moved.png", picture, parameters={**record, "content": {"name": "gone.png", "sha256": ""}})
    nested: Any = "deep"
    for _ in range(200):
        nested = [nested]
    save_image(folder / "deep.png", picture, parameters={"options": nested})


def write_all(folder: Path) -> None:
    """Every bad input, and the good ones beside them; the current folder must be `folder`."""
    for name in ("folder", "folder.png", "configs", "manifests", "weights", "runs"):
        (folder / name).mkdir()
    _write_pictures(folder)
    _write_texts(folder)
    _write_weights(folder / "weights")
    _write_runs(folder)
