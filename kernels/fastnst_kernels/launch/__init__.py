"""How a Triton kernel is launched: on which GPU, over which memory layouts, with which blocks, and by which backend."""
