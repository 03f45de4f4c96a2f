"""The arguments of the commands beside the rendering: networks, the page, and what an image, a run or a machine tells.

As in `commands`, nothing here may import what a run needs.
"""

from dataclasses import fields
from typing import Any

from fastnst.app.cli.arguments import (
    FORMATS,
    HOST_OPTIONS,
    NETWORK_OPTIONS,
    OPTIONS,
    Several,
    add_json,
    add_option,
    add_options,
    add_output,
    add_quiet,
    add_styles,
    add_switch,
    add_word,
    number,
    size_word,
)
from fastnst.examples import STYLES
from fastnst.feedforward.schedule import Schedule
from fastnst.video.options import Part

_SHELLS = ("bash", "zsh", "fish", "tcsh", "powershell")


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train a network that stylizes in one pass",
        usage="%(prog)s STYLE [STYLE …] --photos FOLDER [FOLDER …] -o NET.safetensors [OPTION …]",
        description="Trains one network for all the styles with the perceptual loss (Johnson, Alahi and Fei-Fei 2016), "
        "on photographs of any kind. `fastnst apply` uses it.",
    )
    add_styles(parser, "learn the styles of these pictures")
    add_word(parser, "--photos FOLDER", "learn from the photographs in these folders", nargs="+", required=True)
    add_output(parser, "write the network here: .safetensors")
    add_word(parser, "--names NAME", "call the styles by these names (default: those of the files)", nargs="+")
    group = parser.add_argument_group("training")
    add_word(group, "--steps N", "take this many steps (default: 4000, or as --minutes allows)")
    add_word(group, "--minutes X", "end after this many minutes (default: no limit)")
    add_word(group, "--size PX", "cut the photographs to squares with sides of this many pixels", 256)
    add_word(group, "--batch N", "show it this many crops in a step; the styles take turns", 1)
    rate = "begin with steps of this length, which then falls to 0"
    add_word(group, "--learning-rate X", rate, Schedule.learning_rate)
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
    add_word(group, "--seed N", "draw weights and crops from this number", 0)
    channels = "begin at random, with this many channels in the network's largest maps (default: 16)"
    add_word(group, "--channels N", channels)
    add_word(group, "--blocks N", "begin at random, with this many residual blocks (default: 5)")
    add_word(
        group,
        "--begin-with NET",
        "begin with the convolutions of this network, and with its styles of the same name; none begins at random "
        "(default: the network that comes with fastnst)",
    )
    add_word(group, "--add-to NET", "add the styles to this network, and train only their normalisations")
    add_word(group, "--checkpoint FILE", "also save the training in this file, so that --resume can continue it")
    add_switch(group, "--resume", "continue from the file of --checkpoint, if it exists")
    add_word(group, "--previews FILE", "also keep a sheet of some photographs in all styles in this file")
    add_word(group, "--save-every SECONDS", "write the files every so many seconds", 60.0)
    add_quiet(group)
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
    add_word(parser, "--style NAME", style)
    add_word(
        parser,
        "--blend X",
        "mix the styles: give a weight for each, in order, such as 0.3 0.7, or for some by name, such as "
        "swirls=0.3 mosaic=0.7; along a clip 0:swirls=1 5s:mosaic=1 or 0:1,0 5s:0,1",
        nargs="+",
        action=Several,
    )
    hold = "in a clip, keep this share of the frame before where it shows the same points (default: 0.5)"
    add_word(parser, "--hold X", hold)
    add_word(parser, "--size PX", "choose the size as for stylize (default: content)", type=size_word)
    add_switch(
        parser,
        "--low-memory",
        "save memory by computing large maps twice, which fastnst does anyway above 8 million pixels; the "
        "result is the same",
    )
    for name in ("preserve_color", "max_pixels", "device", "precision"):
        add_option(parser, OPTIONS[name])
    parser.set_defaults(preserve_color="none")
    parser.add_argument("--format", choices=FORMATS, help="write OUT in this format, whatever its name (png for -)")
    add_word(parser, "--bit-depth N", "write this many bits per channel: 8, or 16 for png and tiff (default: 8)")
    add_word(parser, "--quality N", "compress JPEG, WebP or AVIF at this quality, 1 to 100")
    add_word(parser, "--onnx FILE", "also export the network for onnxruntime (fastnst[onnx]): .onnx")
    add_switch(parser, "--quiet", "print no line for each picture")
    add_json(parser, "how each was made")
    parser.set_defaults(run="networks.run_apply")


def _add_web(commands: Any) -> None:
    parser = commands.add_parser(
        "web",
        help="serve a page to stylize pictures in a browser",
        description="Serves a page (fastnst[web]) on which you drop pictures, move the controls and watch the image "
        "form. Only this machine reaches it, unless --host says otherwise; nothing is loaded from elsewhere, and "
        "pictures and results stay in memory until the command ends.",
    )
    host = "listen on this address; machines other than this one need the token that is printed"
    add_word(parser, "--host ADDRESS", host, "127.0.0.1")
    root_path = "expect a proxy that serves the page below this path, such as /name"
    parser.add_argument("--root-path", metavar="PATH", default="", help=root_path)
    origin = "expect a proxy that serves the page at this address, such as https://example.org; give it once for each"
    add_word(parser, "--allow-origin ORIGIN", origin, action="append")
    add_word(parser, "--port N", "listen on this port; 0 chooses any free one", 8017)
    add_word(parser, "--max-size PX", "allow results up to this size", 2048)
    add_word(parser, "--max-upload SIZE", "allow picture files up to this size", "32MB")
    add_word(parser, "--max-pixels N", "allow pictures of up to this many pixels", 50_000_000)
    for name in HOST_OPTIONS:
        add_option(parser, OPTIONS[name])
    parser.set_defaults(run="extras.run_web")


def _add_score_video(commands: Any) -> None:
    parser = commands.add_parser(
        "score-video",
        help="say how much a clip flickers",
        description="Prints the warping error of OUT (Lai et al. 2018): the mean square, in 0…1, of the difference "
        "between each frame and the one before it, warped along the flow of CLIP, where both show the "
        "same points.",
    )
    parser.add_argument("output", metavar="OUT", help="measure this clip")
    add_word(parser, "CLIP", "read the flow from this clip, which OUT was made from")
    for option in fields(Part):
        add_option(parser, option, prefix="of CLIP: ")
    add_switch(parser, "--json", "print the error of each pair of frames as JSON")
    parser.set_defaults(run="video.score")


def _add_info(commands: Any) -> None:
    parser = commands.add_parser("info", help="print how an image was made", description="Prints how OUT was made.")
    parser.add_argument("image", metavar="OUT", help="read this image, which fastnst wrote; - reads it from stdin")
    add_switch(parser, "--json", "print the parameters as JSON")
    parser.set_defaults(run="info.run")


def _add_plan(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="say what a run would need: memory, tiles and time",
        description="Prints the time and the peak of memory of a run on CONTENT, then those of each scale, and its "
        "tiles. It only computes convolutions for half a second. The options are those of stylize.",
    )
    add_word(parser, "CONTENT", "render this picture")
    add_options(parser)
    add_json(parser, "the plans")
    parser.set_defaults(run="plan.run")


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="check the kernels against float64",
        description="Checks the kernels against float64, forward and backward: each operation at one small shape, or "
        "with --all at every dtype, layout and layer's shape.",
    )
    add_switch(parser, "--all", "check every dtype, layout and layer's shape")
    add_word(parser, "--backend", "check this backend", "all", choices=("all", "triton", "torch"))
    size = "with --all, check the layers of a square image with this side (default: 512 on a GPU, 256 on a CPU)"
    add_word(parser, "--size PX", size, type=int)
    add_json(parser, "the checks")
    parser.set_defaults(run="verify.run")


def _add_profile(commands: Any) -> None:
    parser = commands.add_parser(
        "profile",
        help="time the kernels against eager PyTorch and torch.compile",
        description="Times the Gram matrix, its loss and its backward at the five style layers of an image, against "
        "eager PyTorch and torch.compile, then the other kernels of an iteration.",
    )
    precisions = ("auto", "fp32", "tf32", "bf16", "fp16")
    add_word(parser, "--size PX", "use a square image with this side", 512)
    add_word(parser, "--precision", "give the features this dtype", "auto", choices=precisions)
    add_word(parser, "--device DEVICE", "run on this device: auto, cpu, cuda, cuda:1 …", "auto")
    add_word(parser, "--backend", "time this backend", "auto", choices=("auto", "triton", "torch"))
    add_word(parser, "--rounds N", "measure in this many interleaved rounds", 7)
    add_switch(parser, "--no-compile", "leave out torch.compile")
    mode = "compile in this mode; max-autotune takes minutes (default: default)"
    add_word(parser, "--compile-mode", mode, choices=("default", "max-autotune"))
    add_word(parser, "--plot FILE", "also draw the roofline: .png, .svg or .pdf (fastnst[plot])")
    add_word(parser, "--trace FILE", "also write a trace to open in Perfetto: .json")
    add_json(parser, "the measurements")
    parser.set_defaults(run="profile.run")


def _add_env(commands: Any) -> None:
    parser = commands.add_parser(
        "env",
        help="print the facts about this machine that a bug report needs",
        description="Prints versions, processor, GPUs, torch's build, weights and settings, for a bug report. The "
        "report has no paths and no names of users or hosts.",
    )
    add_json(parser, "the facts")
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


TOOLS = (
    *(_add_train, _add_apply, _add_web, _add_score_video, _add_info, _add_plan, _add_verify, _add_profile, _add_env),
    _add_completion,
)
"""They add the commands that follow those of `commands` in `fastnst --help`."""
