"""The command, whose images take five seconds to be written; `saving` in the working folder says when one is."""

import sys
import time
from pathlib import Path
from typing import Any

from fastnst.app.cli import main
from fastnst.transfer import result


def _save(*given: Any, save: Any = result.save_image, **named: Any) -> None:
    Path("saving").touch()
    time.sleep(5)
    save(*given, **named)


result.save_image = _save
sys.exit(main())
