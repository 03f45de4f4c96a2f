"""`python -m fastnst` is the command `fastnst`."""

import sys

from fastnst.cli import main

sys.exit(main())
