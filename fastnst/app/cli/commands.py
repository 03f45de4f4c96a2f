"""The arguments of each command, and the function that does it, by the name of its module.

Nothing here may import what a run needs: the help must not wait for torch.
"""

import argparse
from dataclasses import fields
from typing import Any

from fastnst.app.cli.arguments import (
    FORMATS,
    HOST_OPTIONS,
    NETWORK_OPTIONS,
    OPTIONS,
    Several,
    add_earlier_run,
    add_option,
    add_options,
    add_output,
    add_run,
    number,
    size_word,
    whole_number,
)
from fastnst.examples import STYLES
from fastnst.feedforward.schedule import Schedule
from fastnst.video.options import TRACKED, VIDEO_OPTIONS, Part

_SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")
# A texture has no content, and its size has two sides.
_NOT_OF_TEXTURES = ("content_weight", "content_layers", "preserve_color", "size")
# The layers have arguments of their own; there are no weights of styles and no colours to keep.
_NOT_OF_RECONSTRUCTIONS = ("content_layers", "style_layers", "style_weights", "preserve_color")


def _add(parser: Any, words: str, meaning: str, default: Any = None, **facts: Any) -> None:
    """Adds the argument that `words` show, such as "--cell PX" or "CONTENT"; the default gives its type and is said."""
    name, _, metavar = words.partition(" ")
    if not name.startswith("-"):
        name, metavar = name.lower(), name
    if default is not None:
        kinds = {int: whole_number, float: number}
        facts = {"default": default, "type": kinds.get(type(default), str), **facts}
        meaning += f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
    parser.add_argument(name, help=meaning, **({"metavar": metavar} if metavar else {}), **facts)


def _add_switch(parser: Any, flag: str, meaning: str) -> None:
    parser.add_argument(flag, action="store_true", help=meaning)


def _add_styles(parser: argparse.ArgumentParser, meaning: str = "render it in the style of these pictures") -> None:
    meaning += ", or of those in these folders"
    parser.add_argument("styles", metavar="STYLE", nargs="+", help=meaning)


def _add_sheet(parser: argparse.ArgumentParser, size: str, *, keep: str = "", prefix: str = "") -> None:
    """Adds the arguments of a sheet, whose cells have by default that `size`; `keep` says what --keep writes."""
    _add(parser, "--cell PX", f"{prefix}make the long edge of each this long (default: {size})", type=whole_number)
    parser.add_argument("--title", metavar="TEXT", default="", help=f"{prefix}write this line at the top")
    _add(parser, "--font FILE", f"{prefix}write with this .ttf or .otf file, for letters beyond ASCII")
    if keep:
        _add(parser, "--keep FOLDER", f"{prefix}also write {keep} into this folder")


def _add_quiet(parser: Any, without: str = "progress bar and no closing line") -> None:
    _add_switch(parser, "--quiet", f"show no {without}")


def _add_json(parser: Any, what: str) -> None:
    _add_switch(parser, "--json", f"print {what} as one JSON object on stdout")


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
    _add(parser, "CONTENT", "render this picture; - reads it from stdin")
    _add_styles(parser)
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
    _add_styles(parser, "make the texture of these pictures")
    size = "make it this wide and high, in pixels; one number makes a square (default: 512)"
    _add(parser, "--size WxH", size, dest="canvas")
    tileable = "let copies of it fit together without a seam; the sides become multiples of the pooling grid (16)"
    _add_switch(parser, "--tileable", tileable)
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
    _add(parser, "IMAGE", "reconstruct this picture; - reads it from stdin")
    layers: dict[str, Any] = {"nargs": "+", "action": Several}
    _add(parser, "--layer LAYER", "reconstruct the content from these layers, such as conv4_2", **layers)
    style_layers = "reconstruct the style from these layers, such as conv1_1,conv2_1"
    _add(parser, "--style-layers LAYER", style_layers, dest="layers_of_style", **layers)
    _add_switch(
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
    _add(
        parser,
        "MANIFEST",
        "read the rows from a CSV file (.csv) or JSON lines (.jsonl); each has content, style, output and any "
        "option, and its paths start at the manifest's folder",
        nargs="?",
    )
    _add(parser, "--content PATH", "render these pictures, or those in these folders", nargs="+")
    styles = "render them in the style of each of these pictures, or of those in these folders"
    _add(parser, "--style PATH", styles, nargs="+")
    folder = "write the outputs into this folder, which is made if it is missing (default: the manifest's folder)"
    parser.add_argument("-o", "--output", metavar="FOLDER", help=folder)
    pattern = "name outputs that have no name by this pattern of {content}, {style} and {number}"
    _add(parser, "--name NAME", pattern, "{content}_{style}.png")
    _add_switch(parser, "--resume", "skip outputs that exist already and were made from the same inputs")
    log = "write failures to this file, as JSON lines (default: failures.jsonl in FOLDER, or beside the manifest)"
    _add(parser, "--log FILE", log)
    part = "make every N-th row only, beginning with row K: N such commands make them all, wherever they run"
    _add(parser, "--part K/N", part, type=_part)
    _add(
        parser,
        "--workers N",
        "make this many pictures at a time, each in a process of its own with its own --max-memory (default: "
        "one for each GPU, or one on a CPU)",
        type=whole_number,
    )
    _add(
        parser,
        "--ray ADDRESS",
        "work on a Ray cluster (fastnst[ray]): the one at ADDRESS, else the one that RAY_ADDRESS names, else one "
        "that fastnst starts on this machine",
        nargs="?",
        const="",
    )
    add_options(parser)
    _add_quiet(parser)
    _add_switch(parser, "--json", "print one JSON object for each result on stdout")
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
    _add(parser, "CLIP", "render this video, GIF, WebP or folder of frames")
    _add_styles(parser)
    add_output(parser, "write the result here: .mp4, .mov, .mkv, .webm, .gif, .webp, or a new folder for PNG files")
    parser.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="read options from this TOML file")
    group = parser.add_argument_group("clip")
    for option in VIDEO_OPTIONS.values():
        add_option(group, option)
    _add_switch(group, "--resume", "continue from the frames in OUT.frames")
    _add(group, "--preview FILE", "also keep the newest frame in this file")
    _add_quiet(group, "progress bar, no forecast and no closing line")
    _add_json(group, "what was made")
    tracks = parser.add_argument_group(
        "look", "Give one value, or values at moments of the clip in seconds, such as --style-weight 0:1 5s:20."
    )
    for name in TRACKED:
        add_option(tracks, OPTIONS[name], many=True)
    add_options(parser, leave_out=TRACKED)
    parser.set_defaults(run="video.run")


def _add_score_video(commands: Any) -> None:
    parser = commands.add_parser(
        "score-video",
        help="say how much a clip flickers",
        description="Prints the warping error of OUT (Lai et al. 2018): the mean square, in 0…1, of the difference "
        "between each frame and the one before it, warped along the flow of CLIP, where both show the "
        "same points.",
    )
    parser.add_argument("output", metavar="OUT", help="measure this clip")
    _add(parser, "CLIP", "read the flow from this clip, which OUT was made from")
    for option in fields(Part):
        add_option(parser, option, prefix="of CLIP: ")
    _add_switch(parser, "--json", "print the error of each pair of frames as JSON")
    parser.set_defaults(run="video.score")


def _add_grid(commands: Any) -> None:
    parser = commands.add_parser(
        "grid",
        help="stylize a pair with the values of two options, as one labelled picture",
        usage="%(prog)s CONTENT STYLE [STYLE …] -o OUT [--down OPTION VALUE …] [--across OPTION VALUE …] [OPTION …]",
        description="Renders CONTENT in the style of STYLE once for each value of one option (down) and of another "
        "(across), and puts the results on one labelled sheet. Without --down and --across you get the "
        "paper's grid: layer sets down, α/β across, with --preset gatys.",
    )
    _add(parser, "CONTENT", "render this picture")
    _add_styles(parser)
    add_output(parser, "write the sheet here; - writes it to stdout")
    for axis, example in (("down", "style_layers conv1_1 conv1_1,conv2_1"), ("across", "style_weight 10 100 1000")):
        meaning = f"give an option and its values, such as --{axis} {example}; commas join several into one "
        _add(parser, f"--{axis} OPTION", f"{meaning}value", nargs="+")
    _add_sheet(parser, "the size, 384 at most", keep="each result")
    _add_quiet(parser)
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
    columns = "put this many pictures in a row (default: as many as suit a screen)"
    _add(parser, "--columns N", columns, type=whole_number)
    _add(parser, "--labels TEXT", "write these captions under the pictures, one for each", nargs="+")
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
    _add(parser, "IMAGE", "make this image again, which fastnst wrote")
    add_earlier_run(parser)
    _add(parser, "--device DEVICE", "use this device instead of the one that IMAGE was made on")
    _add_switch(parser, "--changed", "continue although pictures or weights have changed")
    parser.set_defaults(run="rerun.run")


def _add_web(commands: Any) -> None:
    parser = commands.add_parser(
        "web",
        help="serve a page to stylize pictures in a browser",
        description="Serves a page (fastnst[web]) on which you drop pictures, move the controls and watch the image "
        "form. Only this machine reaches it, unless --host says otherwise; nothing is loaded from elsewhere, and "
        "pictures and results stay in memory until the command ends.",
    )
    host = "listen on this address; machines other than this one need the token that is printed"
    _add(parser, "--host ADDRESS", host, "127.0.0.1")
    root_path = "expect a proxy that serves the page below this path, such as /name"
    parser.add_argument("--root-path", metavar="PATH", default="", help=root_path)
    origin = "expect a proxy that serves the page at this address, such as https://example.org; give it once for each"
    _add(parser, "--allow-origin ORIGIN", origin, action="append")
    _add(parser, "--port N", "listen on this port; 0 chooses any free one", 8017)
    _add(parser, "--max-size PX", "allow results up to this size", 2048)
    _add(parser, "--max-upload SIZE", "allow picture files up to this size", "32MB")
    _add(parser, "--max-pixels N", "allow pictures of up to this many pixels", 50_000_000)
    for name in HOST_OPTIONS:
        add_option(parser, OPTIONS[name])
    parser.set_defaults(run="extras.run_web")


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a network that stylizes in one pass",
        usage="%(prog)s STYLE [STYLE …] --photos FOLDER [FOLDER …] -o NET.safetensors [OPTION …]",
        description="Trains one network for all the styles with the perceptual loss (Johnson, Alahi and Fei-Fei 2016), "
        "on photographs of any kind. `fastnst apply` uses it.",
    )
    _add_styles(parser, "learn the styles of these pictures")
    photos = "learn from the photographs in these folders"
    _add(parser, "--photos FOLDER", photos, nargs="+", required=True)
    add_output(parser, "write the network here: .safetensors")
    _add(parser, "--names NAME", "call the styles by these names (default: those of the files)", nargs="+")
    group = parser.add_argument_group("training")
    steps = "take this many steps (default: 4000, or as --minutes allows)"
    _add(group, "--steps N", steps, type=whole_number)
    _add(group, "--minutes X", "end after this many minutes (default: no limit)", type=number)
    _add(group, "--size PX", "cut the photographs to squares with sides of this many pixels", 256)
    _add(group, "--batch N", "show it this many crops in a step; the styles take turns", 1)
    rate = "begin with steps of this length, which then falls to 0"
    _add(group, "--learning-rate X", rate, Schedule.learning_rate)
    group.add_argument(
        "--stable",
        metavar="X",
        type=number,
        nargs="?",
        const=100.0,
        default=0.0,
        help="weigh flicker by this much, for video: how far a little noise in the picture changes the result "
        "(default: 0; 100 if you give no number)",
    )
    _add(group, "--seed N", "draw weights and crops from this number", 0)
    channels = "begin at random, with this many channels in the network's largest maps (default: 16)"
    _add(group, "--channels N", channels, type=whole_number)
    _add(group, "--blocks N", "begin at random, with this many residual blocks (default: 5)", type=whole_number)
    _add(
        group,
        "--begin-with NET",
        "begin with the convolutions of this network, and with its styles of the same name; none begins at random "
        "(default: the network that comes with fastnst)",
    )
    _add(group, "--add-to NET", "add the styles to this network, and train only their normalisations")
    _add(group, "--checkpoint FILE", "also save the training in this file, so that --resume can continue it")
    _add_switch(group, "--resume", "continue from the file of --checkpoint, if it exists")
    _add(group, "--previews FILE", "also keep a sheet of some photographs in all styles in this file")
    _add(group, "--save-every SECONDS", "write the files every so many seconds", 60.0)
    _add_quiet(group)
    group = parser.add_argument_group("loss")
    for name in NETWORK_OPTIONS:
        add_option(group, OPTIONS[name])
    parser.set_defaults(run="networks.run_train")


def _add_apply(commands: Any) -> None:
    parser = commands.add_parser(
        "apply",
        help="stylize pictures or a clip with a trained network, in one pass",
        usage="%(prog)s [NET.safetensors] IMAGE [IMAGE …] -o OUT [--style NAME | --blend X …] [OPTION …]",
        description="Stylizes pictures of any size, each in one pass, with a network that `fastnst train` made or with "
        "the one that comes with fastnst.",
    )
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="*",
        help="stylize these pictures, or those in these folders, or a clip; - reads one picture from stdin. A first "
        "name that ends in .safetensors is the network's file (default: the network that comes with fastnst)",
    )
    output = "write the result here, or to stdout for -; give a folder for several pictures"
    parser.add_argument("-o", "--output", metavar="OUT", help=output)
    style = "choose the style of this name (default: the first); those that come with fastnst: " + ", ".join(STYLES)
    _add(parser, "--style NAME", style)
    _add(
        parser,
        "--blend X",
        "mix the styles: give a weight for each, in order, such as 0.3 0.7, or for some by name, such as "
        "swirls=0.3 mosaic=0.7; along a clip 0:1,0 5s:0,1",
        nargs="+",
        action=Several,
    )
    _add(parser, "--hold X", "in a clip, keep this share of the frame before where it shows the same points", 0.5)
    _add(parser, "--size PX", "choose the size as for stylize (default: content)", type=size_word)
    _add_switch(
        parser,
        "--low-memory",
        "save memory by computing large maps twice, which fastnst does anyway above 8 million pixels; the "
        "result is the same",
    )
    for name in ("preserve_color", "max_pixels", "device", "precision"):
        add_option(parser, OPTIONS[name])
    parser.set_defaults(preserve_color="none")
    parser.add_argument("--format", choices=FORMATS, help="write OUT in this format, whatever its name (png for -)")
    depth = "write this many bits per channel: 8, or 16 for png and tiff (default: 8)"
    _add(parser, "--bit-depth N", depth, type=whole_number)
    _add(parser, "--quality N", "compress JPEG, WebP or AVIF at this quality, 1 to 100", type=whole_number)
    _add(parser, "--onnx FILE", "also export the network for onnxruntime (fastnst[onnx]): .onnx")
    _add_switch(parser, "--quiet", "print no line for each picture")
    parser.set_defaults(run="networks.run_apply")


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="print how an image was made", description="Prints how OUT was made.")
    parser.add_argument("image", metavar="OUT", help="read this image, which fastnst wrote; - reads it from stdin")
    _add_switch(parser, "--json", "print the parameters as JSON")
    parser.set_defaults(run="info.run")


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="say what a run would need: memory, tiles and time",
        description="Prints the tiles, the peak of memory and the time of each scale of a run on CONTENT. It only "
        "computes convolutions for half a second. The options are those of stylize.",
    )
    _add(parser, "CONTENT", "render this picture")
    add_options(parser)
    _add_json(parser, "the plans")
    parser.set_defaults(run="plan.run")


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="check the kernels against float64",
        description="Checks the kernels against float64, forward and backward: each operation at one small shape, or "
        "with --all at every dtype, layout and layer's shape.",
    )
    _add_switch(parser, "--all", "check every dtype, layout and layer's shape")
    _add(parser, "--backend", "check this backend", "all", choices=("all", "triton", "torch"))
    size = "with --all, check the layers of a square image with this side (default: 512 on a GPU, 256 on a CPU)"
    _add(parser, "--size PX", size, type=int)
    _add_json(parser, "the checks")
    parser.set_defaults(run="verify.run")


def _add_profile(commands: Any) -> None:
    parser = commands.add_parser(
        "profile",
        help="time the kernels against eager PyTorch and torch.compile",
        description="Times the Gram matrix, its loss and its backward at the five style layers of an image, against "
        "eager PyTorch and torch.compile, then the other kernels of an iteration.",
    )
    precisions = ("auto", "fp32", "tf32", "bf16", "fp16")
    _add(parser, "--size PX", "use a square image with this side", 512)
    _add(parser, "--precision", "give the features this dtype", "auto", choices=precisions)
    _add(parser, "--device DEVICE", "run on this device: auto, cpu, cuda, cuda:1 …", "auto")
    _add(parser, "--backend", "time this backend", "auto", choices=("auto", "triton", "torch"))
    _add(parser, "--rounds N", "measure in this many interleaved rounds", 7)
    _add_switch(parser, "--no-compile", "leave out torch.compile")
    mode = "compile in this mode; max-autotune takes minutes"
    _add(parser, "--compile-mode", mode, "default", choices=("default", "max-autotune"))
    _add(parser, "--plot FILE", "also draw the roofline: .png, .svg or .pdf (fastnst[plot])")
    _add(parser, "--trace FILE", "also write a trace to open in Perfetto: .json")
    _add_json(parser, "the measurements")
    parser.set_defaults(run="profile.run")


def _add_env(commands: Any) -> None:
    parser = commands.add_parser(
        "env",
        help="print the facts about this machine that a bug report needs",
        description="Prints versions, processor, GPUs, torch's build, weights and settings, for a bug report. The "
        "report has no paths and no names of users or hosts.",
    )
    _add_json(parser, "the facts")
    parser.set_defaults(run="env.run")


def _add_completion(commands: Any) -> None:
    parser = commands.add_parser(
        "completion",
        help="print a script that completes this command in a shell",
        description="Prints a script of completions (fastnst[completion]). For bash, write "
        'eval "$(fastnst completion bash)" into ~/.bashrc; for zsh, save it as _fastnst in a folder of $fpath; for '
        "fish, as ~/.config/fish/completions/fastnst.fish.",
    )
    parser.add_argument("shell", choices=_SHELLS, help="write the script for this shell")
    parser.set_defaults(run="extras.print_completion")


ADDERS = (
    *(_add_stylize, _add_texture, _add_reconstruct, _add_resume, _add_video, _add_batch, _add_grid, _add_compare),
    *(_add_rerun, _add_train, _add_apply, _add_web, _add_score_video, _add_info, _add_plan, _add_verify),
    *(_add_profile, _add_env, _add_completion),
)
"""They add the commands in the order of `fastnst --help`."""
