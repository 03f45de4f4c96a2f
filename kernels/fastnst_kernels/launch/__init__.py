"""The launch of a Triton kernel: on which GPU, over which memory layouts, with which blocks, and by which backend."""
