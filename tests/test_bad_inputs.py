"""Bad input of every kind to every command: the exit code and the one line that says what is wrong, before any work."""

import io
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_files import SMALL, write_all

from fastnst.app import cli
from fastnst.loss import networks

HUGE = "1" + "0" * 400
# By command line, with {} for the words that are wrong, what the message says of them.
REFUSED: dict[str, dict[str, str]] = {
    # The standard input is closed where the message says so, holds text where it is no image, and nothing elsewhere.
    "stylize {} style.png -o out.png": {
        "- ": "is not an image of a known format",
        " -": "the standard input is closed, so - has no picture",
        "missing.png": "content image 'missing.png' does not exist; check the path",
        "''": "content image '' does not exist",
        "folder": "content image 'folder' is a directory; give an image file",
        "/dev/null": "is not a regular file",
        "notes.txt": "is not an image of a known format, or its header is damaged; give a PNG",
        "empty.png": "is an empty file; give a PNG",
        "cut.png": "is damaged or truncated",
        "cut.jpg": "is damaged or truncated",
        "bomb.png": "60000×60000 = 3600000000 pixels, more than the limit of 200000000",
        "pixel.png": "is 1×1 pixels; it must be at least 2×2",
        f"{'a' * 300}.png": "could not be opened (File name too long)",
        "https://example.org/a.png": "is a URL; fastnst does not download images: save",
        "drawing.svg": "is an SVG drawing, which fastnst cannot read; convert it",
        "paper.pdf": "is a PDF document, which fastnst cannot read",
        "nan.npy": "has NaN or infinite values; every value must be in 0…1",
        "large.npy": "they must be in 0…1: divide them by 255",
        "objects.npy": "has dtype object; give uint8, uint16, or float in 0…1",
        "line.npy": "has shape (7,); give (H, W), (H, W, 3) or (H, W, 4)",
        "cut.npy": "is damaged or truncated",
        "-": "is an empty file",
    },
    "{}": {
        "stylize content.png clear.png -o out.png": "is transparent everywhere and shows",
        "stylize content.png missing.png -o out.png": "style image 'missing.png' does not exist",
        "batch --scales 2 manifests/range.jsonl": "give either MANIFEST (before the",
        "stylize out_00001.png style.png -o out.png --save-every 1": "out_00001.png is also an input",
        "stylize - - -o out.png": "- reads one picture from the standard input, and you gave it 2 times",
        "resume missing.st -o out.png": "checkpoint missing.st does not exist",
        "resume content.png -o out.png": "; give the file that --checkpoint wrote, or",
        "resume weights/other.safetensors -o out.png": "or of an older format",
        "resume runs/cut.st -o out.png": "cannot be read: it is damaged, cut short or",
        "resume runs/altered.st -o out.png": "is not what was written",
        "resume runs/future.st -o out.png": "has format 9, and this version of fastnst reads",
        "resume runs/run.st -o content.png": "content.png is also an input",
        "resume runs/run.st -o runs/run.st --format png": "runs/run.st was given for",
        "info missing.png": "missing.png' does not exist; check the path",
        "info content.png": "has no fastnst parameters; it was not made by fastnst",
        "info notes.txt": "is not an image of a known format",
        "info -": "is an empty file",
        "info deep.png": "it was not made by fastnst",
        "rerun content.png -o out.png": "has no fastnst parameters",
        "rerun little.png -o out.png": "lacks options, styles, weights, content in its",
        "rerun inputless.png -o out.png": "lacks its inputs in its metadata",
        "rerun startless.png -o out.png": "lacks the option init",
        "rerun odd.png -o out.png": "unknown option 'warp'; the options are: preset",
        "rerun moved.png -o out.png": "give the path with --content PATH",
        "rerun made.png -o out.png --styles a.png b.png": "you gave 2 styles, and the",
        "rerun made.png -o out.png --content style.png": "is not the picture that the",
        "rerun made.png -o style.png": "style.png is also an input",
        "rerun made.png -o made.png": "made.png is also an input",
        "rerun made.png -o out.png --init style.png": "--init has no effect, because the run was made without such",
        "rerun made.png -o out.png --mask content=style.png": "--mask has no effect, because the run was",
        "rerun missing.png -o out.png": "missing.png' does not exist",
        "batch content.png": "has an unknown extension; use one of: .csv",
        "batch": "give either MANIFEST",
        "batch manifests/range.jsonl --content content.png": "give either MANIFEST",
        "batch --content content.png -o made": "you must give --content, --style",
        "batch --content folder --style style.png -o made --weights random": "content folder 'folder' has no pictures",
        "batch --content . --style style.png -o .": "the next run would read the output",
        "batch manifests/range.jsonl --log manifests/range.jsonl": "is also the manifest and would be overwritten",
        "grid content.png style.png -o content.png": "content.png is also an input",
        f"grid content.png style.png -o again.png --down init noise again.png {SMALL}": "again.png is also an input",
        "grid content.png . -o out.png --down seed 1": "the output out.png is in the folder of the styles",
        "grid content.png . -o folder/a.png --down seed 1 --keep .": "1.png is in the folder of the styles, so the",
        "stylize content.png . -o folder/a.png --preview now.png": "the output now.png is in the folder of the styles",
        "apply content.png style.png -o new.png": "several pictures need a folder after -o, and 'new.png' is",
        f"grid notes.txt style.png -o out.png --down seed 1 --keep kept {SMALL}": "content image 'notes.txt' is not",
        "texture missing.png -o out.png": "style image 'missing.png' does not exist",
        "texture style.png -o style.png": "style.png is also an input",
        "texture - - -o out.png": "- reads one picture from the standard input",
        "reconstruct content.png -o out.png": "give --layer, such as conv4_2, or",
        "reconstruct missing.png -o out.png --layer conv1_1": "content image 'missing.png' does not exist",
        "web --port 70000": "port 70000 is out of range; give 1 to 65535",
        "web --max-size 1": "a limit of 1 for size is too small; give",
        "web --max-upload 3": "is less than a megabyte; write its unit",
        "web --device gpu": "unknown device 'gpu'; use auto",
        "plan missing.png": "content image 'missing.png' does not exist",
        "plan content.png --size 12": "each side must be at least 16",
        "plan content.png --max-memory 1MB": "and you allow 1 MB; raise",
        "plan content.png --style-layers conv9_1": "unknown layer 'conv9_1'",
        "verify --all --size 1": "size 1 is out of range; give 16 to 2048 pixels",
        "profile --size 3": "size 3 is out of range; give",
        "profile --rounds 0": "--rounds 0 is too small; it must be 1 or more",
        "profile --plot a.txt": "cannot be the name of a plot",
        "profile --trace a.txt": "'a.txt' cannot be the name of a trace; end it in .json",
        "profile --plot nowhere/a.png": "nowhere' does not exist; create it",
        "profile --trace nowhere/a.json": "nowhere' does not exist; create it or",
        "profile --device gpu": "unknown device 'gpu'",
    },
    "stylize content.png style.png {}": {
        "notes.txt -o out.png": "style image 'notes.txt' is",
        "-o nowhere/out.png": "does not exist; create it or choose another",
        "-o folder.png": "output 'folder.png' is a directory; give a file name in it",
        "-o folder.png/": "names a folder; give a file name, such as",
        "-o folder/": "output 'folder/' has no extension; use one of: .png",
        "-o notes.txt/out.png": "notes.txt' is a file, not a folder; choose another",
        "-o out.xyz": "output 'out.xyz' has the unknown extension '.xyz'; use one of: .png",
        "-o out": "output 'out' has no extension; use one of: .png",
        "-o ''": "output '' has no extension",
        "-o s3://bucket/out.png": "does not exist; create it or choose another",
        "-o content.png": "content.png is also an input and would be overwritten",
        "-o again.png --init again.png": "again.png is also an input",
        "-o /dev/null --format png": "is not a regular file; choose another name",
        "-o out.jpg --bit-depth 16": "JPEG holds 8 bits per channel, not 16; choose png or",
        "-o out.webp --bit-depth 16": "WEBP holds 8 bits per channel, not 16; choose png or",
        "-o out.avif --bit-depth 16": "AVIF holds 8 bits per channel, not 16; choose png or",
        "-o out.webp --size 20000": "but WEBP holds at most 16383 a side",
        "-o - --json": "--json and -o - both use the standard output",
        "-o - --save-every 2": "--save-every numbers the output's name, and - is no name",
        "-o again.png --mask content=again.png": "again.png is also an input",
    },
    "stylize content.png style.png -o out.png {}": {
        "--init missing.png": "init image 'missing.png' does not exist",
        "--init notes.txt": "init image 'notes.txt' is not an image",
        "--size 0": "size 0 is too small; it must be 2 or more",
        "--size 1000000": "size 1000000 is too large; it must be 65535 or less",
        f"--size {HUGE}": "size has 1329 bits and is too large; give 128 at most",
        "--size 12": "each side must be at least 16",
        "--iterations 0": "iterations 0 is too small; it must be 1 or more",
        "--scales 2 --iterations 1 2 3": "3 counts of iterations for 2 scales",
        "--scales 64 32": "scales (64, 32) do not grow",
        "--scales -5 48": "are too small; give at least one, each 2 pixels or more",
        "--scales 64 128 --size 256": "the last scale, 128, is not the size, 256",
        "--scales 13": "13 scales were asked for; give 1 to 12 scales",
        "--scales coarse": "scales 'coarse' is not possible; give auto, none, a number of",
        "--tile small": "tile 'small' is not possible; give auto, none, or a number of pixels",
        "--tile 0": "tile 0 is too small; give a number of pixels, 1 or more, auto or none",
        "--max-memory 8": "is less than a megabyte; write its unit, as in 8GB",
        "--max-memory lots": "is not an amount of memory; write 8GB, 512MB or 6GiB",
        f"--max-memory {HUGE}GB": "--max-memory is more than any machine has",
        "--max-memory 1MB": "and you allow 1 MB; raise --max-memory, lower --size",
        "--seconds 0": "seconds 0.0 is too small; it must be more than 0",
        "--seconds inf": "seconds inf is not finite; give an ordinary number",
        "--tolerance 2": "tolerance 2.0 is too large; it must be 1 or less",
        "--learning-rate 0": "--learning-rate 0.0 is too small; it must be more than 0",
        "--history 1000": "history 1000 is too large; it must be 200 or less",
        "--average 1": "average 1.0 is too large; it must be 0.9999 or less",
        "--style-weight -1": "--style-weight -1.0 is too small; it must be 0 or more",
        "--tv-weight nan": "--tv-weight nan is not finite",
        "--style-weight heavy": "--style-weight 'heavy' is not a number; write one such as 0.5",
        "--style-weight 0 --content-weight 0": "--content-weight and --style-weight are both 0; at least one",
        "--style-weights 1 2": "2 style weights for 1 style image",
        "--style-weights 0": "the style weights are all 0; at least one must be more",
        "--style-layers conv9_1": "unknown layer 'conv9_1'",
        "--style-layers conv1_1 relu1_1": "is named twice; name each layer once",
        "--style-layers conv1_1=much": "is not a number; write conv1_1=0.5",
        "--content-layers conv1_1=-1": "weights must be finite and 0 or more",
        "--content-layers conv1_1=0": "the weights of the --content-layers are all 0",
        "--style-scale 1e9": "--style-scale 1000000000.0 is too large",
        "--size 64 --style-scale 0.01": "style image",
        f"--seed {2**64}": "is too large; it must be 9223372036854775807 or less",
        "--device gpu": "unknown device 'gpu'; use auto, cpu, cuda, cuda:N, mps or xpu",
        "--device meta": "device meta was asked for, but torch finds none here",
        "--device cpu --precision fp16": "fp16 is a thousand times slower than fp32 on a CPU",
        "--device cpu --precision tf32": "precision tf32 needs a GPU and the device is cpu",
        "--device cpu --backend triton": "backend triton needs a GPU and the device is cpu",
        "--save-every 0": "--save-every 0 is too small; it must be 1 or more",
        "--checkpoint run.st --checkpoint-every 0": "--checkpoint-every 0 is too small",
        "--movie a.gif --movie-every 0": "--movie-every 0 is too small",
        "--bit-depth 12": "bit depth 12 is not possible; give 8 or 16 bits per channel",
        "--plot loss.txt": "cannot be the name of a plot; end it in",
        "--plot nowhere/loss.png": "nowhere' does not exist; create it or choose another",
        "--plot folder.png": "plot 'folder.png' is a directory; give a file name in it",
        "--movie run.avi": "cannot be the name of a movie; end it in",
        "--movie nowhere/run.gif": "nowhere' does not exist; create it or choose another",
        "--preview now.xyz": "output 'now.xyz' has the unknown extension",
        "--preview content.png": "content.png is also an input",
        "--checkpoint nowhere/run.st": "nowhere' does not exist; create it or choose",
        "--checkpoint folder": "checkpoint 'folder' is a directory; give a file name",
        "--plot out.png": "out.png was given for two outputs",
        "--mask style=style.png": "a mask does not say where in the content it lies",
        "--mask a.png b.png c.png": "a region takes two masks, and 3 were given; give one for",
        "--mask content=content.png styles=style.png": "is not a part of a mask; write",
        "--mask content=content.png style:0=style.png": "is not a part of a mask; write",
        "--mask content=content.png style:3=style.png": "a mask names style 3, and you gave 1 style;",
        "--mask content=a.png content=b.png": "content is given twice in one mask",
        "--mask content=missing.png": "missing.png' does not exist; check the path",
        "--mask content=notes.txt": "notes.txt' is not an image of a known format",
        "--mask content=tall.png": "is 20×60 pixels, and the content image 64×48; give",
        "--mask content=black.png": "is black everywhere; paint the region white",
        "--optimizer adam --history 5": "--history 5 has no effect with --optimizer adam; take --optimizer lbfgs, or",
        "--blend 0.5": "--blend 0.5 has no effect with --transfer none; take --transfer wct or adain, or leave it out",
        "--scale-factor 1": "--scale-factor 1.0 is too small; it must be 1.1 or more",
        "--max-pixels 0": "--max-pixels 0 is too small",
        "--max-pixels 100": "64×48 = 3072 pixels, more than the limit of 100",
    },
    "stylize content.png style.png -o out.png --config configs/{}.toml": {
        "missing": "config 'configs/missing.toml': it cannot be read (No such file or",
        "folder": "cannot be read (Is a directory); check the path",
        "broken": "is not TOML: ",
        "latin": "is not text in UTF-8; save it as UTF-8",
        "unknown": "unknown option 'style-wieght'; did you mean style_weight?",
        "twice": "style_weight is set twice, with a dash and with an underscore",
        "type": "size: 'large' is not a size; write 512, 1920x1080",
        "range": "size 1 is too small; it must be 2 or more",
        "table": "size {'of': 3} is not a whole number",
        "digits": "is not TOML: Exceeds the limit (4300 digits)",
        "hexadecimal": "size has 20000 bits and is too large; give 128 at",
        "deep": "it nests too deeply to be read as TOML",
        "null": "is not a valid path (embedded null byte); choose another name",
    },
    "stylize content.png style.png -o out.png --size 32 --weights {}": {
        "missing.pth": "weights file missing.pth does not exist; check the path, or pass",
        "vgg": "unknown weights 'vgg'; choose auto, original, imagenet, random",
        "embedded": "choose original, the network of the paper",
        "https://example.org/vgg.pth": "is an address, not a file; download it first",
        "folder": "weights folder is a folder; pass the path of a",
        "content.png": "has an unknown type; it must be .pth, .pt or .safetensors",
        "weights/empty.pth": "is empty; fetch it again",
        "weights/empty.pth --checkpoint weights/empty.pth": "weights/empty.pth is also an input",
        "weights/text.pth": "is not a PyTorch checkpoint of plain tensors; pass a file",
        "weights/text.safetensors": "or not a safetensors file",
        "weights/cut.pth": "is truncated, damaged or not a PyTorch checkpoint; fetch",
        "weights/cut.safetensors": "is truncated",
        "weights/code.pth": "was refused for safety: it holds code or whole Python",
        "weights/list.pth": "holds a list, not named tensors; save the model's state_dict()",
        "weights/other.safetensors": "is not a VGG: it has no features.0.weight",
        "weights/shape.safetensors": "has the shape 3×3; expected 64×3×3×3",
        "weights/nan.safetensors --style-layers conv1_1 --content-layers conv1_1": "NaN",
        "original --network vgg16": "choose imagenet or random",
        "imagenet": "FASTNST_OFFLINE",
    },
    "resume runs/run.st -o out.png {}": {
        "--content style.png": "the content image",
        "--styles style.png content.png": "the run was made from 1 style image, not 2",
        "--init style.png": "--init has no effect, because the run was made without such a picture; leave it out",
        "--mask content=style.png": "--mask has no effect, because the run was made without",
        "--checkpoint a.st": "leave --checkpoint out",
    },
    "batch manifests/{} --weights random": {
        "missing.csv": "cannot be read (No such file or directory); check the path",
        "empty.csv": "has no rows; write one for each picture",
        "latin.csv": "is not UTF-8",
        "column.csv": "unknown column 'szie'; did you mean size",
        "style.csv": "line 2: style is None; give the path of a file",
        "quote.csv": "check the quotes",
        "broken.jsonl": "line 1: this is not JSON",
        "option.csv": "line 2: size: 'big' is not a size; write 512",
        "range.jsonl": "size 1 is too small; it must be 2 or more",
        "beyond.jsonl": "style weight is too large for a float; give a smaller",
        "twice.csv": "is also the output of twice.csv, line 2; give each a name of its own",
        "input.csv": "is also an input",
        "null.jsonl": "is not a valid path; take the null character out of it",
    },
    "batch --content content.png --style style.png -o made {}": {
        "--workers 0": "--workers 0 is too small",
        "--weights random --log a.png": "does not end in .jsonl",
        "--weights random --log nowhere/a.jsonl": "log 'nowhere/a.jsonl': the folder",
        "--name {artist}.png": "has an unknown field; you can use",
        "--name '{content'": "cannot be read",
    },
    "grid content.png style.png -o out.png {}": {
        "--down warp 9": "--down 'warp' is no",
        f"--down seed 1 --keep . -o 1.png {SMALL}": "1.png was given for two outputs",
        "--down seed": "--down seed has 0 values",
        f"--down seed {'1 ' * 65}": "--down seed has 65 values; give 1 to 64",
        "--down seed x": "--down seed: 'x' is not a whole number; write one such as 7",
        "--down seed 1 --across seed 2": "seed is on both axes",
        "--down optimizer sgd": "unknown optimizer 'sgd'; choose one of: lbfgs",
        "--down style_weight 1 -1": "style weight -1.0 is too small",
        "--down size 64 12": "each side must be at least 16",
        "--style-weight 5": "--style-weight has no effect beside the values of its axis; leave it out",
        f"--down seed 1 2 --cell 20000 {SMALL}": "the sheet would be of 2 cells of 20000×15000 pixels; use smaller",
        f"--down seed 1 --cell 3 {SMALL}": "cells of 3 pixels are too small",
        f"--down seed 1 --font none.ttf {SMALL}": "font 'none.ttf' cannot be read",
        f"--down seed 1 --keep notes.txt {SMALL}": "output folder 'notes.txt' cannot be made",
    },
    "compare content.png {}": {
        "none.png -o out.png": "'none.png' does not exist",
        "style.png -o style.png": "style.png is also an input",
        "style.png -o out.png --labels a": "you gave 1 label for 2 pictures",
        "-o out.png --columns 0": "--columns 0 is too small",
        "-o out.png --cell 0": "cells of 0 pixels are too small",
        f"-o out.png --cell {10**9}": "cells of 1000000000 pixels are too large",
        "-o out.png --font notes.txt": "give a .ttf or .otf file",
    },
    "texture style.png -o out.png {}": {
        "--size 64by64": "is not a size in pixels; write 512x384",
        "--size 1x64": "each side must be a whole number of 2",
        "--size 64x99999": "each side must be a whole number",
        "--size 64x8": "each side must be at least 16",
        "--init content": "there is no content picture to",
        "--tileable --padding zeros": "padding 'zeros' does not make a texture that tiles",
    },
    "reconstruct content.png -o out.png {}": {
        "--layer conv1_1 --style-layers conv1_1": "give --layer, such as conv4_2",
        "--layer conv9_1": "unknown layer 'conv9_1' of vgg19; its layers are: conv1_1",
    },
    "reconstruct content.png -o out.png --figure {}": {
        "--style-layers conv1_1": "--style-layers makes one image",
        "--movie a.gif": "--movie works for one run",
        "--cell 2": "cells of 2 pixels are",
        "--cell 20000": "the sheet would be of 12 cells of 20000×15000 pixels",
        "--font none.ttf": "font 'none.ttf' cannot be read",
        "--keep notes.txt": "output folder 'notes.txt' cannot be made",
    },
}

# What the parser refuses.
MISUSED: dict[str, dict[str, str]] = {
    "stylize content.png style.png -o out.png {}": {
        "--size big": "argument --size: 'big' is not a size; write 512",
        f"--size {'9' * 5000}": "is not a size; write 512",
        "--optimizer sgd": "invalid choice: 'sgd'",
        "--steps 3": "did you mean --iterations?",
        "-image_size 3": "did you mean --size?",
        "--size 20cm": "sizes are in pixels: at 300 an inch it is 2362; docs/answers.md has",
        "--print-size 20": "20 cm at 300 an inch are 2362; docs/answers.md has",
        "--colour": "did you mean --preserve-color?",
        "--color": "did you mean --preserve-color?",
        "--style swirls": "a style that comes with fastnst, such as swirls: fastnst apply CONTENT --style swirls",
        "--lr 3": "did you mean --learning-rate?",
        "--content a.png": "give the content picture without a name: CONTENT STYLE -o OUT",
        "--content a.png --style-image b.png": "give both pictures without names: fastnst stylize CONTENT STYLE -o OUT",
        "--sizes 3": "unknown arguments --sizes 3; did you mean --size?",
        "--style-w 3": "unknown arguments --style-w 3; did you mean",
        "--format bmp": "invalid choice: 'bmp'",
        "--style-loss histogram": "invalid choice: 'histogram'",
        "--tv-kind cubic": "invalid choice: 'cubic'",
        "--preset fast": "invalid choice: 'fast'",
        "--edge middle": "invalid choice: 'middle'",
        "--padding round": "invalid choice: 'round'",
    },
    "{}": {
        "stylize --style-weight 5 content.png style.png -o out.png": "STYLE; give them before the",
        "stylize --style-layers conv1_1 content.png style.png -o out.png": "STYLE; give them before the",
        "stylize content.png style.png": "arguments are required: -o/--output",
        "batch manifests/range.jsonl --part 3/2": "write K/N, from 1/N to N/N",
        "batch manifests/range.jsonl --part half": "'half' is not a part",
        "apply content.png -o out.png --style-weight 50": "--style-weight belongs to stylize; a network's strength is",
        "apply content.png -o out.png --iterations 50": "--iterations belongs to stylize",
        "web --port http": "'http' is not a whole number",
        "verify --backend cuda": "invalid choice: 'cuda'",
        "completion cmd": "invalid choice: 'cmd'",
        "paint": "invalid choice: 'paint'",
        "stylize content.png -o out.png": "give them before the options that take several",
    },
    "texture style.png -o out.png {}": {
        "--content-weight 1": "--content-weight",
    },
}

CASES = [
    (command.replace("{}", words), said, code)
    for code, commands in ((1, REFUSED), (2, MISUSED))
    for command, cases in commands.items()
    for words, said in cases.items()
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of all bad inputs, which no command changes."""
    folder = tmp_path_factory.mktemp("inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_all(folder)
        yield folder


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and age of all that is there."""
    facts = {path: path.stat() for path in folder.rglob("*")}
    return {str(path): (stat.st_size, stat.st_mtime_ns) for path, stat in facts.items()}


def must_not_work(*_: object, **__: object) -> Any:
    pytest.fail("a network was built for input that should have been refused")


@pytest.mark.posix
@pytest.mark.parametrize(("line", "said", "code"), CASES, ids=[line[:99] for line, *_ in CASES])
def test_bad_input_is_refused_in_one_line(
    line: str, said: str, code: int, inputs: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin = {"is not an image of a known format": b"no picture"}.get(said, b"")
    monkeypatch.setattr(sys, "stdin", None if "is closed" in said else io.TextIOWrapper(io.BytesIO(stdin)))
    words = shlex.split(line)
    for word, package in (("--plot", "matplotlib"), ("web", "uvicorn")):
        if word in words:
            pytest.importorskip(package)
    monkeypatch.chdir(inputs)
    monkeypatch.setattr(networks, "build_backbone", must_not_work)
    before = states(inputs)
    try:
        ended: object = cli.main(words)
    except SystemExit as stop:
        ended = stop.code
    printed = capsys.readouterr()
    assert (printed.out, ended) == ("", code), printed.err
    (error,) = printed.err.splitlines()
    assert error.startswith("fastnst: error: ")
    assert said in error
    assert states(inputs) == before
