"""The run: load, make targets, optimise at each scale, save; and what watches it.

Its modules import everything but `fastnst.app`.
"""
