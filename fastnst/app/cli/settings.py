"""The options and outputs of a run, as the command line and its `--config` file have them."""

import argparse
from typing import Any

from fastnst.app.cli.arguments import given_options
from fastnst.app.cli.config_file import read_config
from fastnst.app.cli.job import Outputs


def settings_of(parsed: argparse.Namespace) -> tuple[dict[str, Any], Outputs]:
    """The options and outputs of the parsed arguments; what they leave open is that of the config file.

    Raises OptionError as `read_config` does.
    """
    settings = {**(read_config(parsed.config) if "config" in parsed else {}), **vars(parsed)}
    return given_options(settings), Outputs.of(settings)
