"""A batch: a manifest of rows, each row a run, shared by processes of one machine or a Ray cluster.

Its modules import `transfer` and the rooms below it; a few take the command line's job from `app.cli`.
"""
