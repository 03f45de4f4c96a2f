"""How a run fits: memory and time foreseen, the whole image or tiles, one process or several.

Its modules import `loss`, `optim` and what those may import.
"""
