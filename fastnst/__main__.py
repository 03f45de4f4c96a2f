"""`python -m fastnst` is the command `fastnst`."""

import sys

from fastnst.app.cli import main

sys.exit(main())
