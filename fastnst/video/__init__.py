"""Clips: reading and writing them, where points move between frames, and the loop that makes one frame after another.

Its modules import `transfer` and what that imports; PyAV and OpenCV (the extra `video`) where they are used.
"""
