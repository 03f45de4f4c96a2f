"""The checks of the interpreted kernels, in a process of their own: triton reads the switch when it is imported.

Takes names such as gram/conv1_1, and prints the fields of each one's checks as a JSON object of lists.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from fastnst_kernels.verify.everything import interpreted_checks


def main(names: Sequence[str]) -> None:
    print(json.dumps({name: [asdict(check) for check in interpreted_checks(name)] for name in names}))


if __name__ == "__main__":
    main(sys.argv[1:])
