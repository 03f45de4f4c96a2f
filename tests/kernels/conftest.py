"""The interpreted tests need TRITON_INTERPRET=1 before triton is imported: `test_kernels_backends` runs them in a
process of their own, and a plain run does not collect them."""

import os

collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted"]
