"""A contact sheet to its file or to the standard output."""

from collections.abc import Mapping
from typing import Any

from PIL import Image

from fastnst.images import load_image
from fastnst.job import Outputs
from fastnst.output import save_image


def save_sheet(sheet: Image.Image, output: str, parameters: Mapping[str, Any]) -> None:
    """Writes the sheet in the format of the name `output`, or for `-` as PNG, with `parameters` in its metadata.

    Raises ImageError as `save_image` does.
    """
    save_image(Outputs(output=output).target, load_image(sheet, role="the").rgb, parameters=parameters)
