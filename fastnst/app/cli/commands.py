"""The arguments of the commands that render pictures and clips, and the function that does each, by the name of its
module; `tools` has those of the others.

Nothing here may import what a run needs: the help must not wait for torch.
"""

import argparse
from typing import Any

from fastnst.app.cli.arguments import (
    OPTIONS,
    Several,
    add_earlier_run,
    add_json,
    add_option,
    add_options,
    add_output,
    add_quiet,
    add_run,
    add_styles,
    add_switch,
    add_word,
)
from fastnst.video.options import TRACKED, VIDEO_OPTIONS

# A texture has no content, and its size has two sides.
_NOT_OF_TEXTURES = ("content_weight", "content_layers", "preserve_color", "size")
# The layers have arguments of their own; there are no weights of styles and no colours to keep.
_NOT_OF_RECONSTRUCTIONS = ("content_layers", "style_layers", "style_weights", "preserve_color")


def _add_sheet(parser: argparse.ArgumentParser, size: str, *, keep: str = "", prefix: str = "") -> None:
    """Adds the arguments of a sheet, whose cells have by default that `size`; `keep` says what --keep writes."""
    add_word(parser, "--cell PX", f"{prefix}make the long edge of each this long (default: {size})")
    parser.add_argument("--title", metavar="TEXT", default="", help=f"{prefix}write this line at the top")
    add_word(parser, "--font FILE", f"{prefix}write with this .ttf or .otf file, for letters beyond ASCII")
    if keep:
        add_word(parser, "--keep FOLDER", f"{prefix}also write {keep} into this folder")


def _part(word: str) -> tuple[int, int]:
    first, _, count = word.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(f"{word!r} is not a part of a batch; write K/N, from 1/N to N/N, such as 2/8")
    return int(first), int(count)


def _add_stylize(commands: Any) -> None:
    parser = commands.add_parser(
        "stylize",
        help="render a picture in the style of others",
        usage="%(prog)s CONTENT STYLE [STYLE …] -o OUT [OPTION …]",
        description="Renders CONTENT in the style of STYLE by optimising the image itself.",
    )
    add_word(parser, "CONTENT", "render this picture; - reads it from stdin")
    add_styles(parser)
    add_run(parser)
    parser.set_defaults(run="stylize.run_stylize", together=True)


def _add_texture(commands: Any) -> None:
    parser = commands.add_parser(
        "texture",
        help="make a texture of a picture's style, from noise",
        usage="%(prog)s STYLE [STYLE …] -o OUT [--size WxH] [--tileable] [OPTION …]",
        description="Makes an image in the style of STYLE alone, from noise (Gatys, Ecker and Bethge 2015). It "
        "begins with --preset texture unless you give another one. --style-layers sets how large the structures are "
        "that it takes from the style.",
    )
    add_styles(parser, "make the texture of these pictures")
    size = "make it this wide and high, in pixels; one number makes a square (default: 512)"
    add_word(parser, "--size WxH", size, dest="canvas")
    tileable = "let copies of it fit together without a seam; the sides become multiples of the pooling grid (16)"
    add_switch(parser, "--tileable", tileable)
    add_run(parser, leave_out=_NOT_OF_TEXTURES, preset="texture")
    parser.set_defaults(run="stylize.run_texture", together=True)


def _add_reconstruct(commands: Any) -> None:
    parser = commands.add_parser(
        "reconstruct",
        help="show what the network's layers keep of a picture",
        usage="%(prog)s IMAGE (--layer LAYER [LAYER …] | --style-layers LAYER [LAYER …] | --figure) -o OUT [OPTION …]",
        description="Makes an image that has the features of IMAGE at --layer, from grey, or its Gram matrices at "
        "--style-layers, from noise (figure 1 of Gatys, Ecker and Bethge 2015). It begins with --preset "
        "reconstruction unless you give another one.",
    )
    add_word(parser, "IMAGE", "reconstruct this picture; - reads it from stdin")
    layers: dict[str, Any] = {"nargs": "+", "action": Several}
    add_word(parser, "--layer LAYER", "reconstruct the content from these layers, such as conv4_2", **layers)
    style_layers = "reconstruct the style from these layers, such as conv1_1,conv2_1"
    add_word(parser, "--style-layers LAYER", style_layers, dest="layers_of_style", **layers)
    add_switch(
        parser,
        "--figure",
        "make one labelled sheet: the content of each of conv1_1 … conv5_1, or of --layer, and the style of the "
        "first of them, of the first two, and so on",
    )
    _add_sheet(parser, "the size, 256 at most", keep="each image", prefix="with --figure: ")
    add_run(parser, leave_out=_NOT_OF_RECONSTRUCTIONS, preset="reconstruction")
    parser.set_defaults(run="stylize.run_reconstruct", together=True)


def _add_resume(commands: Any) -> None:
    parser = commands.add_parser(
        "resume",
        help="continue a run from its checkpoint",
        description="Continues a run that `fastnst stylize --checkpoint CHECKPOINT` began, and keeps the "
        "checkpoint up to date. On a CPU you get the same image as without the stop, bit for bit.",
    )
    parser.add_argument("saved", metavar="CHECKPOINT", help="continue from this file, which --checkpoint wrote")
    add_earlier_run(parser)
    for name, what in (("device", "another device"), ("tile", "other tiles"), ("max-memory", "another memory limit")):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="X", help=f"use {what} than the run had")
    parser.set_defaults(run="stylize.run_resume", together=True)


def _add_batch(commands: Any) -> None:
    parser = commands.add_parser(
        "batch",
        help="render many pictures in many styles",
        usage="%(prog)s MANIFEST [-o FOLDER] [OPTION …]\n"
        "       %(prog)s --content PATH [PATH …] --style PATH [PATH …] -o FOLDER [OPTION …]",
        description="Renders each row of MANIFEST, or each of the contents in each of the styles. A picture that "
        "fails does not stop the rest; the exit code is 0 if all went well and 1 if some failed. The "
        "other options are those of stylize; a row's own options win.",
    )
    add_word(
        parser,
        "MANIFEST",
        "read the rows from a CSV file (.csv) or JSON lines (.jsonl); each has content, style, output and any "
        "option, and its paths start at the manifest's folder",
        nargs="?",
    )
    add_word(parser, "--content PATH", "render these pictures, or those in these folders", nargs="+")
    styles = "render them in the style of each of these pictures, or of those in these folders"
    add_word(parser, "--style PATH", styles, nargs="+")
    folder = "write the outputs into this folder, which is made if it is missing (default: the manifest's folder)"
    parser.add_argument("-o", "--output", metavar="FOLDER", help=folder)
    pattern = "name outputs that have no name by this pattern of {content}, {style} and {number}"
    add_word(parser, "--name NAME", pattern, "{content}_{style}.png")
    add_switch(parser, "--resume", "skip outputs that exist already and were made from the same inputs")
    log = "write failures to this file, as JSON lines (default: failures.jsonl in FOLDER, or beside the manifest)"
    add_word(parser, "--log FILE", log)
    part = "make every N-th row only, beginning with row K: N such commands make them all, wherever they run"
    add_word(parser, "--part K/N", part, type=_part)
    add_word(
        parser,
        "--workers N",
        "make this many pictures at a time, each in a process of its own with its own --max-memory (default: "
        "one for each GPU, or one on a CPU)",
    )
    add_word(
        parser,
        "--ray ADDRESS",
        "work on a Ray cluster (fastnst[ray]): the one at ADDRESS, else the one that RAY_ADDRESS names, else one "
        "that fastnst starts on this machine",
        nargs="?",
        const="",
    )
    add_options(parser)
    add_quiet(parser)
    add_switch(parser, "--json", "print one JSON object for each result on stdout")
    parser.set_defaults(run="batch.run")


def _add_video(commands: Any) -> None:
    parser = commands.add_parser(
        "video",
        help="render a clip in the style of pictures, without flicker",
        usage="%(prog)s CLIP STYLE [STYLE …] -o OUT [OPTION …]",
        description="Renders each frame of CLIP in the style of STYLE. Each frame starts from the result of the "
        "frame before, warped along the optical flow, and is kept close to it (Ruder, Dosovitskiy and Brox "
        "2016). You need fastnst[video].",
    )
    add_word(parser, "CLIP", "render this video, GIF, WebP or folder of frames")
    add_styles(parser)
    add_output(parser, "write the result here: .mp4, .mov, .mkv, .webm, .gif, .webp, or a new folder for PNG files")
    add_word(parser, "--config FILE", "read options from this TOML file")
    group = parser.add_argument_group("clip")
    for option in VIDEO_OPTIONS.values():
        add_option(group, option)
    add_switch(group, "--resume", "continue from the frames in OUT.frames")
    add_word(group, "--preview FILE", "also keep the newest frame in this file")
    add_quiet(group, "progress bar, no forecast and no closing line")
    add_json(group, "what was made")
    tracks = parser.add_argument_group(
        "look", "Give one value, or values at moments of the clip in seconds, such as --style-weight 0:1 5s:20."
    )
    for name in TRACKED:
        add_option(tracks, OPTIONS[name], many=True)
    add_options(parser, leave_out=TRACKED)
    parser.set_defaults(run="video.run")


def _add_grid(commands: Any) -> None:
    parser = commands.add_parser(
        "grid",
        help="stylize a pair with the values of two options, as one labelled picture",
        usage="%(prog)s CONTENT STYLE [STYLE …] -o OUT [--down OPTION VALUE …] [--across OPTION VALUE …] [OPTION …]",
        description="Renders CONTENT in the style of STYLE once for each value of one option (down) and of another "
        "(across), and puts the results on one labelled sheet. Without --down and --across you get the "
        "paper's grid: layer sets down, α/β across, with --preset gatys.",
    )
    add_word(parser, "CONTENT", "render this picture")
    add_styles(parser)
    add_output(parser, "write the sheet here; - writes it to stdout")
    for axis, example in (("down", "style_layers conv1_1 conv1_1,conv2_1"), ("across", "style_weight 10 100 1000")):
        meaning = f"give an option and its values, such as --{axis} {example}; commas join several into one "
        add_word(parser, f"--{axis} OPTION", f"{meaning}value", nargs="+")
    _add_sheet(parser, "the size, 384 at most", keep="each result")
    add_quiet(parser)
    add_options(parser)
    parser.set_defaults(run="grid.run_grid")


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="put results side by side, with the options in which they differ",
        description="Puts pictures on one sheet. Under each picture you see its name and, if fastnst made it, its "
        "loss and the options in which the pictures differ.",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="put these pictures on the sheet, in this order")
    add_output(parser, "write the sheet here; - writes it to stdout")
    add_word(parser, "--columns N", "put this many pictures in a row (default: as many as suit a screen)")
    add_word(parser, "--labels TEXT", "write these captions under the pictures, one for each", nargs="+")
    _add_sheet(parser, "384")
    parser.set_defaults(run="grid.run_compare", cell=384)


def _add_rerun(commands: Any) -> None:
    parser = commands.add_parser(
        "rerun",
        help="make an image again from its metadata",
        description="Makes IMAGE again from the options in its metadata. It looks for the pictures where they were "
        "then, and beside IMAGE. First it checks that the pictures and the weights have not changed; at the "
        "end it says how much the new image differs.",
    )
    add_word(parser, "IMAGE", "make this image again, which fastnst wrote")
    add_earlier_run(parser)
    add_word(parser, "--device DEVICE", "use this device instead of the one that IMAGE was made on")
    add_switch(parser, "--changed", "continue although pictures or weights have changed")
    parser.set_defaults(run="rerun.run")


RENDERING = (
    *(_add_stylize, _add_texture, _add_reconstruct, _add_resume, _add_video, _add_batch, _add_grid, _add_compare),
    _add_rerun,
)
"""They add the commands in the order of `fastnst --help`."""
