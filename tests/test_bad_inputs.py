"""Bad input of every kind to every command: the exit code and the one line that says what is wrong, before any work."""

import io
import pickle
import shlex
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn import drawn
from PIL import Image
from safetensors.torch import save_file

from fastnst.app import cli
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import save_image
from fastnst.transfer import stylizer

BAD_INPUT = 1
BAD_USAGE = 2

STYLIZE = "stylize content.png style.png -o out.png "
SMALL = "--size 32 --iterations 2 --scales none --weights random --style-layers conv1_1 --content-layers conv1_1"


@dataclass(frozen=True)
class Case:
    """A command line, run in the folder of `inputs`, and what it says. `stdin` is what is piped in."""

    line: str
    said: str
    code: int = BAD_INPUT
    stdin: bytes | None = b""


def stylize(options: str, said: str, code: int = BAD_INPUT) -> Case:
    return Case(STYLIZE + options, said, code)


def content(path: str, said: str) -> Case:
    return Case(f"stylize {path} style.png -o out.png", said)


def output(words: str, said: str) -> Case:
    return Case(f"stylize content.png style.png {words}", said)


def config(name: str, said: str) -> Case:
    return stylize(f"--config configs/{name}.toml", said)


def weights(words: str, said: str) -> Case:
    return stylize(f"--size 32 --weights {words}", said)


def batch(name: str, said: str) -> Case:
    return Case(f"batch manifests/{name} --weights random", said)


def pair(options: str, said: str) -> Case:
    return Case(f"batch --content content.png --style style.png -o made {options}", said)


def grid(options: str, said: str) -> Case:
    return Case(f"grid content.png style.png -o out.png {options}", said)


def figure(options: str, said: str) -> Case:
    return Case(f"reconstruct content.png -o out.png --figure {options}", said)


def texture(options: str, said: str, code: int = BAD_INPUT) -> Case:
    return Case(f"texture style.png -o out.png {options}", said, code)


CASES = {
    # Pictures.
    "content is missing": content("missing.png", "content image 'missing.png' does not exist; check the path"),
    "content has no name": content("''", "content image '' does not exist"),
    "content is a folder": content("folder", "content image 'folder' is a directory; give an image file"),
    "content is a device": content("/dev/null", "is not a regular file"),
    "content is text": content("notes.txt", "is not an image of a known format, or its header is damaged; give a PNG"),
    "content is empty": content("empty.png", "is an empty file; give a PNG"),
    "content is cut short": content("cut.png", "is damaged or truncated"),
    "content is cut short, jpeg": content("cut.jpg", "is damaged or truncated"),
    "content is a bomb": content("bomb.png", "60000×60000 = 3600000000 pixels, more than the limit of 200000000"),
    "content is one pixel": content("pixel.png", "is 1×1 pixels; it must be at least 2×2"),
    "content is transparent": Case("stylize content.png clear.png -o out.png", "is transparent everywhere and shows"),
    "content has a long name": content("a" * 300 + ".png", "could not be opened (File name too long)"),
    "content is an address": content("https://example.org/a.png", "is a URL; fastnst does not download images: save"),
    "content is an svg": content("drawing.svg", "is not an image of a known format"),
    "content is a pdf": content("paper.pdf", "is not an image of a known format"),
    "array of NaN": content("nan.npy", "has NaN or infinite values; every value must be in 0…1"),
    "array of 0 to 255": content("large.npy", "they must be in 0…1: divide them by 255"),
    "array of objects": content("objects.npy", "has dtype object; give uint8, uint16, or float in 0…1"),
    "array of the wrong shape": content("line.npy", "has shape (7,); give (H, W), (H, W, 3) or (H, W, 4)"),
    "array cut short": content("cut.npy", "is damaged or truncated"),
    "style is missing": Case("stylize content.png missing.png -o out.png", "style image 'missing.png' does not exist"),
    "second style is text": Case("stylize content.png style.png notes.txt -o out.png", "style image 'notes.txt' is"),
    "init is missing": stylize("--init missing.png", "init image 'missing.png' does not exist"),
    "init is text": stylize("--init notes.txt", "init image 'notes.txt' is not an image"),
    # Options.
    "size of a word": stylize("--size big", "argument --size: 'big' is not a whole number; write 512", BAD_USAGE),
    "size 0": stylize("--size 0", "size 0 is too small; it must be 2 or more"),
    "size beyond all bounds": stylize("--size 1000000", "size 1000000 is too large; it must be 65535 or less"),
    "size beyond floats": stylize(f"--size 1{'0' * 400}", "size has 1329 bits and is too large; give 128 at most"),
    "size beyond int": stylize(f"--size {'9' * 5000}", "is not a whole number", BAD_USAGE),
    "size below the pools": stylize("--size 12", "each side must be at least 16"),
    "no iterations": stylize("--iterations 0", "iterations 0 is too small; it must be 1 or more"),
    "more counts than scales": stylize("--scales 2 --iterations 1 2 3", "3 counts of iterations for 2 scales"),
    "scales that shrink": stylize("--scales 64 32", "scales (64, 32) do not grow"),
    "negative scale": stylize("--scales -5 48", "are too small; give at least one, each 2 pixels or more"),
    "a path after a number": Case(
        "stylize --style-weight 5 content.png style.png -o out.png",
        "STYLE; give them before the options that take several values, or after --",
        BAD_USAGE,
    ),
    "paths after layers": Case(
        "stylize --style-layers conv1_1 content.png style.png -o out.png", "STYLE; give them before the", BAD_USAGE
    ),
    "a manifest after a number": Case("batch --scales 2 manifests/range.jsonl", "give either MANIFEST (before the"),
    "last scale is not the size": stylize("--scales 64 128 --size 256", "the last scale, 128, is not the size, 256"),
    "thirteen scales": stylize("--scales 13", "13 scales were asked for; give 1 to 12 scales"),
    "scale of a word": stylize("--scales coarse", "scales 'coarse' is neither auto, nor none, nor a number of"),
    "tile of a word": stylize("--tile small", "tile 'small' is neither auto, nor none, nor a number of pixels"),
    "tile 0": stylize("--tile 0", "tile 0 is too small; give a number of pixels, 1 or more, auto or none"),
    "memory without a unit": stylize("--max-memory 8", "is less than a megabyte; write its unit, as in 8GB"),
    "memory of a word": stylize("--max-memory lots", "is not an amount of memory; write 8GB, 512MB or 6GiB"),
    "memory beyond floats": stylize(f"--max-memory 1{'0' * 400}GB", "max memory is more than any machine has"),
    "memory that is too little": stylize("--max-memory 1MB", "and 1 MB are allowed; raise --max-memory, lower --size"),
    "no seconds": stylize("--seconds 0", "seconds 0.0 is too small; it must be more than 0"),
    "endless": stylize("--seconds inf", "seconds inf is not finite; give an ordinary number"),
    "tolerance above 1": stylize("--tolerance 2", "tolerance 2.0 is too large; it must be 1 or less"),
    "unknown optimiser": stylize("--optimizer sgd", "invalid choice: 'sgd'", BAD_USAGE),
    "no step": stylize("--learning-rate 0", "learning rate 0.0 is too small; it must be more than 0"),
    "history of 1000": stylize("--history 1000", "history 1000 is too large; it must be 200 or less"),
    "average of 1": stylize("--average 1", "average 1.0 is too large; it must be 0.9999 or less"),
    "negative weight": stylize("--style-weight -1", "style weight -1.0 is too small; it must be 0 or more"),
    "weight that is no number": stylize("--tv-weight nan", "tv weight nan is not finite"),
    "weight of a word": stylize("--style-weight heavy", "style weight 'heavy' is not a number; write one as 0.5"),
    "nothing to do": stylize("--style-weight 0 --content-weight 0", "are both 0; at least one must be more"),
    "two weights, one style": stylize("--style-weights 1 2", "2 style weights for 1 style image"),
    "style weights all 0": stylize("--style-weights 0", "the style weights are all 0; at least one must be more"),
    "unknown layer": stylize("--style-layers conv9_1", "unknown layer 'conv9_1'"),
    "layer twice": stylize("--style-layers conv1_1 relu1_1", "is named twice; name each layer once"),
    "layer weight of a word": stylize("--style-layers conv1_1=much", "is not a number; write conv1_1=0.5"),
    "negative layer weight": stylize("--content-layers conv1_1=-1", "weights must be finite and 0 or more"),
    "layers all 0": stylize("--content-layers conv1_1=0", "the weights of the content layers are all 0"),
    "style scale beyond bounds": stylize("--style-scale 1e9", "style scale 1000000000.0 is too large"),
    "style scale that leaves nothing": stylize("--size 64 --style-scale 0.01", "style image"),
    "seed beyond 63 bits": stylize(f"--seed {2**64}", "is too large; it must be 9223372036854775807 or less"),
    "unknown device": stylize("--device gpu", "unknown device 'gpu'; use auto, cpu, cuda or cuda:N"),
    "meta device": stylize("--device meta", "device meta was asked for, but torch cannot reach one here"),
    "fp16 on a CPU": stylize("--device cpu --precision fp16", "fp16 is a thousand times slower than fp32 on a CPU"),
    "tf32 on a CPU": stylize("--device cpu --precision tf32", "precision tf32 needs a GPU and the device is cpu"),
    "triton on a CPU": stylize("--device cpu --backend triton", "backend triton needs a GPU and the device is cpu"),
    "unknown option": stylize("--sizes 3", "unknown arguments --sizes 3; did you mean --size?", BAD_USAGE),
    "option twice shortened": stylize("--style-w 3", "unknown arguments --style-w 3; did you mean", BAD_USAGE),
    "save every 0": stylize("--save-every 0", "--save-every 0 is too small; it must be 1 or more"),
    "checkpoint every 0": stylize("--checkpoint run.st --checkpoint-every 0", "--checkpoint-every 0 is too small"),
    "movie every 0": stylize("--movie a.gif --movie-every 0", "--movie-every 0 is too small"),
    # Outputs.
    "no output": Case("stylize content.png style.png", "arguments are required: -o/--output", BAD_USAGE),
    "folder that is missing": output("-o nowhere/out.png", "does not exist; create it or choose another"),
    "output is a folder": output("-o folder.png", "output 'folder.png' is a directory; give a file name in it"),
    "output ends in a slash, with an extension": output("-o folder.png/", "names a folder; give a file name, as in"),
    "output ends in a slash": output("-o folder/", "output 'folder/' has no extension; use one of: .png"),
    "output in a file": output("-o notes.txt/out.png", "is not a folder; create it or choose another"),
    "unknown extension": output("-o out.xyz", "output 'out.xyz' has the unknown extension '.xyz'; use one of: .png"),
    "no extension": output("-o out", "output 'out' has no extension; use one of: .png"),
    "empty output": output("-o ''", "output '' has no extension"),
    "output is an address": output("-o s3://bucket/out.png", "does not exist; create it or choose another"),
    "output is the content": output("-o content.png", "content.png is also an input and would be overwritten"),
    "output is the init": output("-o again.png --init again.png", "again.png is also an input"),
    "output is a device": output("-o /dev/null --format png", "is not a regular file; choose another name"),
    "numbered image is an input": Case(
        "stylize out_00001.png style.png -o out.png --save-every 1", "out_00001.png is also an input"
    ),
    "unknown format": stylize("--format bmp", "invalid choice: 'bmp'", BAD_USAGE),
    "16 bits in a JPEG": output("-o out.jpg --bit-depth 16", "JPEG holds 8 bits per channel, not 16; choose png or"),
    "12 bits": stylize("--bit-depth 12", "bit depth 12 is none of 8 and 16 bits per channel"),
    "too long for WebP": output("-o out.webp --size 20000", "but WEBP holds at most 16383 a side"),
    "plot's name": stylize("--plot loss.txt", "loss.txt is not a plot's name; end it in"),
    "plot's folder": stylize("--plot nowhere/loss.png", "nowhere' does not exist; create it or choose another"),
    "plot is a folder": stylize("--plot folder.png", "plot 'folder.png' is a directory; give a file name in it"),
    "movie's name": stylize("--movie run.avi", "run.avi is not a movie's name; end it in"),
    "movie's folder": stylize("--movie nowhere/run.gif", "nowhere' does not exist; create it or choose another"),
    "preview's name": stylize("--preview now.xyz", "output 'now.xyz' has the unknown extension"),
    "preview is an input": stylize("--preview content.png", "content.png is also an input"),
    "checkpoint's folder": stylize("--checkpoint nowhere/run.st", "nowhere' does not exist; create it or choose"),
    "checkpoint is a folder": stylize("--checkpoint folder", "checkpoint 'folder' is a directory; give a file name"),
    "two outputs, one file": stylize("--plot out.png", "out.png was given for two outputs"),
    # Standard input and output.
    "stdin twice": Case("stylize - - -o out.png", "the standard input holds one picture, and - was given 2 times"),
    "stdin is empty": Case("stylize - style.png -o out.png", "is an empty file"),
    "stdin is text": Case("stylize - style.png -o out.png", "is not an image of a known format", stdin=b"no picture"),
    "stdin is closed": Case("stylize - style.png -o out.png", "the standard input is closed", stdin=None),
    "json and picture on stdout": output("-o - --json", "--json prints on the standard output, where -o - writes"),
    "numbers on stdout": output("-o - --save-every 2", "--save-every needs a name to number, and the output is -"),
    # Config files.
    "config is missing": config("missing", "config 'configs/missing.toml': it cannot be read (No such file or"),
    "config is a folder": config("folder", "cannot be read (Is a directory); check the path"),
    "config is no TOML": config("broken", "is not TOML: "),
    "config is not UTF-8": config("latin", "is not text in UTF-8; save it as UTF-8"),
    "config has an unknown option": config("unknown", "unknown option 'style-wieght'; did you mean style_weight?"),
    "config has one option twice": config("twice", "style_weight is set twice, with a dash and with an underscore"),
    "config has a wrong type": config("type", "size 'large' is not a whole number"),
    "config is out of range": config("range", "size 1 is too small; it must be 2 or more"),
    "config has a table": config("table", "size {'of': 3} is not a whole number"),
    "config has a number beyond int": config("digits", "is not TOML: Exceeds the limit (4300 digits)"),
    "config has a number beyond floats": config("hexadecimal", "size has 20000 bits and is too large; give 128 at"),
    "config nests deeply": config("deep", "is not TOML that can be read: it nests too deeply"),
    "config has a path with a null": config("null", "is not a valid path (embedded null byte); choose another name"),
    # Weights.
    "weights are missing": weights("missing.pth", "weights file missing.pth does not exist; check the path, or pass"),
    "weights of an unknown name": weights("vgg", "unknown weights 'vgg'; choose auto, original, imagenet, random"),
    "embedded is gone": weights("embedded", "pass original, the network of the paper"),
    "weights are an address": weights("https://example.org/vgg.pth", "is an address, not a file; download it first"),
    "weights are a folder": weights("folder", "weights folder is a folder; pass the path of a"),
    "weights are a picture": weights("content.png", "has an unknown type; it must be .pth, .pt or .safetensors"),
    "weights are empty": weights("weights/empty.pth", "is empty; fetch it again"),
    "weights are text": weights("weights/text.pth", "is not a PyTorch checkpoint of plain tensors; pass a file"),
    "weights are no safetensors": weights("weights/text.safetensors", "or not a safetensors file"),
    "weights are cut short": weights("weights/cut.pth", "is truncated, damaged or not a PyTorch checkpoint; fetch"),
    "safetensors cut short": weights("weights/cut.safetensors", "is truncated"),
    "weights would run code": weights("weights/code.pth", "was refused for safety: it holds code or whole Python"),
    "weights are a list": weights("weights/list.pth", "holds a list, not named tensors; save the model's state_dict()"),
    "weights of another net": weights("weights/other.safetensors", "is not a VGG: it has no features.0.weight"),
    "weights of a wrong shape": weights("weights/shape.safetensors", "has the shape 3×3; expected 64×3×3×3"),
    "weights of NaN": weights("weights/nan.safetensors --style-layers conv1_1 --content-layers conv1_1", "NaN"),
    "original is no vgg16": weights("original --network vgg16", "pass imagenet, or random"),
    "ImageNet offline": weights("imagenet", "FASTNST_OFFLINE"),
    # Checkpoints.
    "checkpoint is missing": Case("resume missing.st -o out.png", "checkpoint missing.st does not exist"),
    "checkpoint is a picture": Case("resume content.png -o out.png", "; give the file that --checkpoint wrote, or"),
    "checkpoint is weights": Case("resume weights/other.safetensors -o out.png", "or of an older format"),
    "checkpoint is cut short": Case("resume runs/cut.st -o out.png", "cannot be read: it is damaged, cut short or"),
    "checkpoint was altered": Case("resume runs/altered.st -o out.png", "is damaged: "),
    "checkpoint of the future": Case("resume runs/future.st -o out.png", "has format 9, this version of fastnst reads"),
    "checkpoint of other pictures": Case("resume runs/run.st -o out.png --content style.png", "the content image"),
    "checkpoint of fewer styles": Case(
        "resume runs/run.st -o out.png --styles style.png content.png", "the checkpoint has 1 style images, not 2"
    ),
    "resume with a checkpoint": Case("resume runs/run.st -o out.png --checkpoint a.st", "leave --checkpoint out"),
    "resume into its content": Case("resume runs/run.st -o content.png", "content.png is also an input"),
    "resume into its checkpoint": Case("resume runs/run.st -o runs/run.st --format png", "runs/run.st was given for"),
    # Rerun and info.
    "info of a missing file": Case("info missing.png", "missing.png' does not exist; check the path"),
    "info of a foreign file": Case("info content.png", "has no fastnst parameters; it was not made by fastnst"),
    "info of text": Case("info notes.txt", "is not an image of a known format"),
    "info of nothing on stdin": Case("info -", "is an empty file"),
    "info of metadata that nest": Case("info deep.png", "it was not made by fastnst"),
    "rerun of a foreign file": Case("rerun content.png -o out.png", "has no fastnst parameters"),
    "rerun of too little": Case("rerun little.png -o out.png", "lacks options, styles, weights, content in its"),
    "rerun with odd options": Case("rerun odd.png -o out.png", "unknown option 'warp'; the options are: preset"),
    "rerun of what has moved": Case("rerun moved.png -o out.png", "say where with --content PATH"),
    "rerun with other styles": Case("rerun made.png -o out.png --styles a.png b.png", "2 styles given, and it was"),
    "rerun with another content": Case("rerun made.png -o out.png --content style.png", "is not the picture that the"),
    "rerun into its input": Case("rerun made.png -o style.png", "style.png is also an input"),
    "rerun of nothing": Case("rerun missing.png -o out.png", "missing.png' does not exist"),
    # Batches.
    "manifest is missing": batch("missing.csv", "cannot be read (No such file or directory); check the path"),
    "manifest is a picture": Case("batch content.png", "has an unknown extension; use one of: .csv"),
    "manifest without rows": batch("empty.csv", "has no rows; write one for each picture"),
    "manifest is not UTF-8": batch("latin.csv", "is not UTF-8"),
    "manifest with an unknown column": batch("column.csv", "unknown column 'szie'; did you mean size"),
    "manifest without a style": batch("style.csv", "line 2: style is None; give the path of a file"),
    "manifest with an open quote": batch("quote.csv", "check the quotes"),
    "manifest of no JSON": batch("broken.jsonl", "line 1: no JSON"),
    "manifest with a wrong option": batch("option.csv", "line 2: size: 'big' is not a whole number"),
    "manifest out of range": batch("range.jsonl", "size 1 is too small; it must be 2 or more"),
    "manifest beyond floats": batch("beyond.jsonl", "style weight is beyond what a float can hold; give an ordinary"),
    "manifest with one output twice": batch("twice.csv", "is also that of twice.csv, line 2; name them apart"),
    "manifest writes its input": batch("input.csv", "is also an input"),
    "manifest with a null in a path": batch("null.jsonl", "is not a valid path; take the null character out of it"),
    "batch of nothing": Case("batch", "give either MANIFEST"),
    "batch of both": Case("batch manifests/range.jsonl --content content.png", "give either MANIFEST"),
    "batch without styles": Case("batch --content content.png -o made", "are all needed"),
    "batch of no pictures": Case(
        "batch --content folder --style style.png -o made --weights random", "content folder 'folder' has no pictures"
    ),
    "batch into its inputs": Case("batch --content . --style style.png -o .", "outputs would become inputs"),
    "batch with no workers": pair("--workers 0", "--workers 0 is too small"),
    "batch of a part too far": Case("batch manifests/range.jsonl --part 3/2", "write K/N, from 1/N to N/N", BAD_USAGE),
    "batch of a part of a word": Case("batch manifests/range.jsonl --part half", "'half' is no part", BAD_USAGE),
    "batch with a wrong log": pair("--weights random --log a.png", "does not end in .jsonl"),
    "batch that logs over its manifest": Case(
        "batch manifests/range.jsonl --log manifests/range.jsonl", "is also the manifest and would be overwritten"
    ),
    "batch with a log nowhere": pair("--weights random --log nowhere/a.jsonl", "log 'nowhere/a.jsonl': the folder"),
    "batch with unknown names": pair("--name {artist}.png", "has an unknown field; those are"),
    "batch with a broken name": pair("--name '{content'", "cannot be read"),
    # Grids and comparisons.
    "grid of an unknown option": grid("--down warp 9", "--down 'warp' is no"),
    "grid without values": grid("--down seed", "--down seed has 0 values"),
    "grid of one option twice": grid("--down seed 1 --across seed 2", "seed is on both axes"),
    "grid of an unknown choice": grid("--down optimizer sgd", "unknown optimizer 'sgd'; choose one of: lbfgs"),
    "grid of a bad value": grid("--down style_weight 1 -1", "style weight -1.0 is too small"),
    "grid of a size too small": grid("--down size 64 12", "each side must be at least 16"),
    "grid over its input": Case("grid content.png style.png -o content.png", "content.png is also an input"),
    "grid of cells too small": grid(f"--down seed 1 --cell 3 {SMALL}", "cells of 3 pixels are too small"),
    "grid with a missing font": grid(f"--down seed 1 --font none.ttf {SMALL}", "font 'none.ttf' cannot be read"),
    "grid kept in a file": grid(f"--down seed 1 --keep notes.txt {SMALL}", "output folder 'notes.txt' cannot be made"),
    "grid of a bad picture": Case(
        f"grid notes.txt style.png -o out.png --down seed 1 --keep kept {SMALL}", "content image 'notes.txt' is not"
    ),
    "comparison of a missing picture": Case("compare content.png none.png -o out.png", "'none.png' does not exist"),
    "comparison over its input": Case("compare content.png style.png -o style.png", "style.png is also an input"),
    "comparison with too few labels": Case("compare content.png style.png -o out.png --labels a", "1 labels for 2"),
    "comparison without columns": Case("compare content.png -o out.png --columns 0", "--columns 0 is too small"),
    "comparison of tiny cells": Case("compare content.png -o out.png --cell 0", "cells of 0 pixels are too small"),
    "comparison with a bad font": Case("compare content.png -o out.png --font notes.txt", "give a .ttf or .otf file"),
    # Textures and reconstructions.
    "texture of a missing style": Case("texture missing.png -o out.png", "style image 'missing.png' does not exist"),
    "texture of no size": texture("--size 64by64", "is no size in pixels; write 512x384"),
    "texture of one pixel": texture("--size 1x64", "each side must be a whole number of 2"),
    "texture beyond bounds": texture("--size 64x99999", "each side must be a whole number"),
    "texture below the pools": texture("--size 64x8", "each side must be at least 16"),
    "texture from the content": texture("--init content", "there is no content picture to"),
    "texture with a content": texture("--content-weight 1", "--content-weight", BAD_USAGE),
    "texture over its style": Case("texture style.png -o style.png", "style.png is also an input"),
    "texture that tiles and is padded": texture("--tileable --padding zeros", "padding 'zeros' does not tile; leave"),
    "texture from stdin twice": Case("texture - - -o out.png", "the standard input holds one picture"),
    "reconstruction of nothing": Case("reconstruct content.png -o out.png", "give either --layer, as conv4_2, or"),
    "reconstruction of both": Case(
        "reconstruct content.png -o out.png --layer conv1_1 --style-layers conv1_1", "give either --layer, as conv4_2"
    ),
    "reconstruction of an unknown layer": Case(
        "reconstruct content.png -o out.png --layer conv9_1",
        "unknown layer 'conv9_1' of vgg19; its layers are: conv1_1",
    ),
    "reconstruction of a missing picture": Case(
        "reconstruct missing.png -o out.png --layer conv1_1", "content image 'missing.png' does not exist"
    ),
    "figure of style layers": figure("--style-layers conv1_1", "--style-layers is for one image"),
    "figure with a movie": figure("--movie a.gif", "--movie is for one"),
    "figure of cells too small": figure("--cell 2", "cells of 2 pixels are"),
    "figure with a missing font": figure("--font none.ttf", "font 'none.ttf' cannot be read"),
    "figure kept in a file": figure("--keep notes.txt", "output folder 'notes.txt' cannot be made"),
    # Masks, style losses and other newer options.
    "mask without a content": stylize("--mask style=style.png", "a mask does not say where in the content it lies"),
    "mask of no words": stylize("--mask a.png b.png c.png", "a mask of 3 parts is no region; give a content mask and"),
    "mask of an unknown part": stylize("--mask content=content.png styles=style.png", "is no part of a mask; write"),
    "mask of style 0": stylize("--mask content=content.png style:0=style.png", "is no part of a mask; write"),
    "mask of a style that is not there": stylize(
        "--mask content=content.png style:3=style.png", "a mask is for style 3, and there are 1"
    ),
    "mask names a part twice": stylize("--mask content=a.png content=b.png", "content is there twice in one mask"),
    "mask is missing": stylize("--mask content=missing.png", "missing.png' does not exist; check the path"),
    "mask is text": stylize("--mask content=notes.txt", "notes.txt' is not an image of a known format"),
    "mask of another shape": stylize("--mask content=tall.png", "is 20×60 pixels, and the content image 64×48; give"),
    "mask is black": stylize("--mask content=black.png", "is black everywhere; paint the region white"),
    "output is a mask": output("-o again.png --mask content=again.png", "again.png is also an input"),
    "unknown style loss": stylize("--style-loss histogram", "invalid choice: 'histogram'", BAD_USAGE),
    "unknown total variation": stylize("--tv-kind cubic", "invalid choice: 'cubic'", BAD_USAGE),
    "unknown preset": stylize("--preset fast", "invalid choice: 'fast'", BAD_USAGE),
    "unknown edge": stylize("--edge middle", "invalid choice: 'middle'", BAD_USAGE),
    "scale factor of 1": stylize("--scale-factor 1", "scale factor 1.0 is too small; it must be 1.1 or more"),
    "no pixels": stylize("--max-pixels 0", "max pixels 0 is too small"),
    "more pixels than allowed": stylize("--max-pixels 100", "64×48 = 3072 pixels, more than the limit of 100"),
    "circular and tiles of a word": stylize("--padding round", "invalid choice: 'round'", BAD_USAGE),
    # The page.
    "page on a port beyond all": Case("web --port 70000", "port 70000 is out of range; give 1 to 65535"),
    "page on a port of a word": Case("web --port http", "'http' is not a whole number", BAD_USAGE),
    "page with no size": Case("web --max-size 1", "a limit of 1 for size is too small; give"),
    "page with no uploads": Case("web --max-upload 3", "is less than a megabyte; write its unit"),
    "page on a missing device": Case("web --device gpu", "unknown device 'gpu'; use auto"),
    # The other commands.
    "plan of a missing picture": Case("plan missing.png", "content image 'missing.png' does not exist"),
    "plan of a picture too small": Case("plan content.png --size 12", "each side must be at least 16"),
    "plan with too little memory": Case("plan content.png --max-memory 1MB", "and 1 MB are allowed; raise"),
    "plan with a bad option": Case("plan content.png --style-layers conv9_1", "unknown layer 'conv9_1'"),
    "verify at a wrong size": Case("verify --size 1", "size 1 is out of range; give 16 to 2048 pixels"),
    "verify of an unknown backend": Case("verify --backend cuda", "invalid choice: 'cuda'", BAD_USAGE),
    "profile at a wrong size": Case("profile --size 3", "size 3 is out of range; give"),
    "profile without rounds": Case("profile --rounds 0", "0 rounds were asked for; give 1 or more"),
    "profile with a wrong plot": Case("profile --plot a.txt", "a.txt is not a plot's name"),
    "profile with a wrong trace": Case("profile --trace a.txt", "a.txt is not a trace's name; end it in .json"),
    "profile with a plot nowhere": Case("profile --plot nowhere/a.png", "nowhere' does not exist; create it"),
    "profile with a trace nowhere": Case("profile --trace nowhere/a.json", "nowhere' does not exist; create it or"),
    "profile on a missing device": Case("profile --device gpu", "unknown device 'gpu'"),
    "completion of an unknown shell": Case("completion cmd", "invalid choice: 'cmd'", BAD_USAGE),
    "unknown command": Case("paint", "invalid choice: 'paint'", BAD_USAGE),
    "no styles": Case("stylize content.png -o out.png", "give them before the options that take several", BAD_USAGE),
}


def bomb() -> bytes:
    """A PNG whose header promises 60000×60000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + header, b"IDAT" + zlib.compress(bytes(1000))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )


class _Code:
    def __reduce__(self) -> Any:
        import os

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
    (folder / "bomb.png").write_bytes(bomb())
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
    """Run in `folder`: a picture that fastnst made, its checkpoint, and what they are when others meddle with them."""
    line = f"stylize content.png style.png -o made.png --checkpoint runs/run.st --quiet {SMALL}"
    assert cli.main(shlex.split(line)) == 0
    whole = (folder / "runs/run.st").read_bytes()
    (folder / "runs/cut.st").write_bytes(whole[:-100])
    middle = len(whole) // 2
    (folder / "runs/altered.st").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    torch.save({**torch.load(folder / "runs/run.st"), "format": 9}, folder / "runs/future.st")
    picture, record = load_image(folder / "made.png").rgb, read_parameters(folder / "made.png")
    save_image(folder / "little.png", picture, parameters={})
    save_image(folder / "odd.png", picture, parameters={**record, "options": {**record["options"], "warp": 9}})
    save_image(folder / "moved.png", picture, parameters={**record, "content": {"name": "gone.png", "sha256": ""}})
    nested: Any = "deep"
    for _ in range(200):
        nested = [nested]
    save_image(folder / "deep.png", picture, parameters={"options": nested})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of all bad inputs, which no command changes."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("folder", "folder.png", "configs", "manifests", "weights", "runs"):
        (folder / name).mkdir()
    _write_pictures(folder)
    _write_texts(folder)
    _write_weights(folder / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _write_runs(folder)
        yield folder


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and age of all that is there."""
    found = {path: path.stat() for path in folder.rglob("*")}
    return {str(path): (facts.st_size, facts.st_mtime_ns) for path, facts in found.items()}


def must_not_work(*_: object, **__: object) -> Any:
    pytest.fail("a network was built for input that should have been refused")


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_in_one_line(
    name: str, inputs: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    for word, package in (("--plot", "matplotlib"), ("web", "uvicorn")):
        if word in case.line.split():
            pytest.importorskip(package)
    monkeypatch.chdir(inputs)
    monkeypatch.setattr(sys, "stdin", None if case.stdin is None else io.TextIOWrapper(io.BytesIO(case.stdin)))
    monkeypatch.setattr(stylizer, "build_backbone", must_not_work)
    before = states(inputs)
    try:
        code: object = cli.main(shlex.split(case.line))
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    assert (printed.out, code) == ("", case.code), printed.err
    (line,) = printed.err.splitlines()
    assert line.startswith("fastnst: error: ")
    assert case.said in line
    assert states(inputs) == before
