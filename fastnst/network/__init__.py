"""The network that looks at an image: architecture, weights, layers forward and back, the geometry of its tiles.

Its modules import `fastnst.errors` and the kernels.
"""
