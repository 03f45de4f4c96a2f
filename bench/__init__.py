"""Benchmarks: each checks its results before it times them."""

import fastnst as fastnst  # Before torch, for which it sets how threads wait.
