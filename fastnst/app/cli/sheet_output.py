"""A contact sheet to its file or to the standard output."""

import sys
from collections.abc import Mapping
from typing import Any

from PIL import Image

from fastnst.app.cli.job import Outputs
from fastnst.image.read import load_image
from fastnst.image.write import save_image


def save_sheet(sheet: Image.Image, output: str, parameters: Mapping[str, Any], *, quiet: bool = False) -> None:
    """Writes the sheet in the format of the name `output`, or for `-` as PNG, with `parameters` in its metadata, and
    says so unless `quiet`.

    Raises ImageError as `save_image` does.
    """
    outputs = Outputs(output=output)
    save_image(outputs.target, load_image(sheet, role="the").rgb, parameters=parameters)
    if not quiet:
        print(f"fastnst: saved {outputs.shown} ({sheet.width}×{sheet.height})", file=sys.stderr)
