"""A run as the command asks for it: its inputs, its options and everything that it writes, checked beforehand."""

import argparse
import glob
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastnst.app.cli.arguments import STANDARD, Outputs, check_heeded, given_options, read_config, standard_input
from fastnst.errors import OptionError
from fastnst.image.files import check_apart, is_in_folder, pictures_at
from fastnst.image.read import Source
from fastnst.image.write import check_output_path
from fastnst.options.masks import parse_masks
from fastnst.transfer.callbacks import Frames, Movie, Preview, Ready
from fastnst.transfer.checkpoint import check_checkpoint
from fastnst.transfer.inputs import Canvas
from fastnst.transfer.plot import check_plot
from fastnst.transfer.result import Callback
from fastnst.transfer.run import Watch


def watch_of(outputs: Outputs, callback: Callback) -> Watch:
    """The run's watch; losses are read back at least as often as every output on the way asks."""
    every = math.gcd(outputs.save_every or 0, outputs.movie_every if outputs.movie is not None else 0) or None
    return Watch(callback, every, outputs.checkpoint, outputs.checkpoint_every)


def callbacks_of(outputs: Outputs) -> list[Ready]:
    """The callbacks that write on the way. Raises FastnstError where they could not."""
    callbacks: list[Ready] = []
    if outputs.save_every is not None:
        callbacks.append(Frames(outputs.output, every=outputs.save_every, **outputs.form))
    if outputs.preview is not None:
        callbacks.append(Preview(outputs.preview))
    if outputs.movie is not None:
        callbacks.append(Movie(outputs.movie, every=outputs.movie_every))
    return callbacks


@dataclass(frozen=True)
class Job:
    """One run: a content (or the size of an image without one) and styles, each a path or `-`, options and outputs."""

    content: str | Canvas
    styles: Sequence[str]
    options: Mapping[str, Any]
    outputs: Outputs

    @property
    def title(self) -> str:
        styles = ", ".join(Path(style).name for style in self.styles)
        if isinstance(self.content, Canvas):
            return f"a texture of {styles}"
        name = Path(self.content).name
        return f"{name} in the style of {styles}" if styles else f"{name} reconstructed"

    def sources(self) -> tuple[Source | Canvas, list[Source], dict[str, Any]]:
        """Content, styles and options, with the stream for the one that is `-`.

        Raises OptionError where more than one is, or the standard input has no picture to give.
        """
        words = [self.content, *self.styles, self.options.get("init", "")]
        count = sum(isinstance(word, str) and word == STANDARD for word in words)
        if count > 1:
            raise OptionError(
                f"- reads one picture from the standard input, and you gave it {count} times; give paths for the others"
            )
        stream = standard_input() if count else None

        def source(word: Any) -> Any:
            return stream if isinstance(word, str) and word == STANDARD else word

        options = {name: source(value) if name == "init" else value for name, value in self.options.items()}
        return source(self.content), [source(style) for style in self.styles], options

    @property
    def inputs(self) -> list[Any]:
        """All that the run reads: paths, and what is none. Raises OptionError for masks that cannot be."""
        masks = [source for mask in parse_masks(self.options.get("masks")) or () for source in mask.sources]
        if STANDARD in masks:
            raise OptionError("a mask cannot come from the standard input; give its path")
        return [self.content, *self.styles, self.options.get("init"), self.options.get("weights"), *masks]

    def check(self) -> None:
        """Raises FastnstError where an output could not be written, is an input, or is another output.

        What is written on the way is checked by `callbacks_of`.
        """
        outputs = self.outputs
        for name in ("save_every", "movie_every", "checkpoint_every"):
            value = getattr(outputs, name)
            if value is not None and value < 1:
                raise OptionError(f"--{name.replace('_', '-')} {value} is too small; it must be 1 or more")
        for name in ("movie", "checkpoint"):
            every = f"{name}_every"
            if getattr(outputs, name) is None:
                check_heeded(f"--{name}", {f"--{name}-every": getattr(outputs, every) != getattr(Outputs, every)})
        if outputs.output == STANDARD:
            if outputs.json:
                raise OptionError("--json and -o - both use the standard output; give a path with -o, or omit --json")
            if outputs.save_every is not None:
                raise OptionError("--save-every numbers the output's name, and - is no name; give a path with -o")
            if not hasattr(sys.stdout, "buffer") or sys.stdout.isatty():
                raise OptionError(
                    "-o - writes the picture to the standard output, which is a terminal; redirect it, "
                    "or give a path with -o"
                )
        check_output_path(outputs.target, **outputs.form)
        targets = list(map(Path, outputs.paths))
        if outputs.checkpoint is not None:
            check_checkpoint(Path(outputs.checkpoint))
        if outputs.plot is not None:
            check_plot(Path(outputs.plot))
        if outputs.save_every is not None:
            output = Path(outputs.output)
            targets += output.parent.glob(f"{glob.escape(output.stem)}_[0-9]*{glob.escape(output.suffix)}")
        check_apart(targets, self.inputs)


def settings_of(parsed: argparse.Namespace) -> tuple[dict[str, Any], Outputs]:
    """The options and outputs of the parsed arguments; the config file gives what they leave open."""
    settings = {**({} if parsed.config is None else read_config(parsed.config)), **vars(parsed)}
    return given_options(settings), Outputs.of(settings)


def style_paths(styles: Sequence[str], *outputs: str) -> list[str]:
    """The styles, each folder among them replaced by the pictures in it, by name.

    Raises ImageError as `pictures_at` does, and OptionError where one of the `outputs` would be among them the next
    time.
    """
    for style in styles:
        for output in (output for output in outputs if is_in_folder(output, style)):
            raise OptionError(
                f"the output {output} is in the folder of the styles, so the next run would read the output as a "
                "style; give another folder"
            )
    return [path for style in styles for path in pictures_at(style, "style")]
