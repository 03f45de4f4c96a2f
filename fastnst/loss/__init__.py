"""The loss that is minimised: terms, targets and statistics, and the value and gradient of an image in one call.

Its modules import `options`, `network`, the image modules and the kernels.
"""
