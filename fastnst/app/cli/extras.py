"""`fastnst web` and `fastnst completion`, each of which needs the packages of an extra."""

import argparse

from fastnst.app.cli import build_parser
from fastnst.app.cli.arguments import HOST_OPTIONS, given_options
from fastnst.errors import OptionError, check_package
from fastnst.options.parse import parse_memory


def run_web(parsed: argparse.Namespace) -> int:
    for package in ("starlette", "uvicorn"):
        check_package(package, "the page", "web")

    from fastnst.app.web.guard import Guard
    from fastnst.app.web.results import Limits
    from fastnst.app.web.serve import serve

    try:
        upload_bytes = parse_memory(parsed.max_upload) or 0
    except OptionError as error:
        raise OptionError(str(error).replace("max memory", "max upload", 1)) from None
    guard = Guard(origins=parsed.allow_origin or (), root_path=parsed.root_path, host=parsed.host)
    limits = Limits(upload_bytes=upload_bytes, pixels=parsed.max_pixels, size=parsed.max_size)
    serve(parsed.port, given_options(vars(parsed), HOST_OPTIONS), limits, guard)
    return 0


def print_completion(parsed: argparse.Namespace) -> int:
    check_package("shtab", "completion", "completion")
    import shtab

    if parsed.shell not in shtab.SUPPORTED_SHELLS:
        raise OptionError(f"the shtab that is installed does not know {parsed.shell}; install a newer one")
    print(shtab.complete(build_parser(), shell=parsed.shell))
    return 0
