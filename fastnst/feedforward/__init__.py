"""Networks that stylize in one pass: trained with the perceptual loss, kept in a file, applied to any size.

Its modules import nothing of `fastnst.app`, `transfer` or `plan`.
"""
