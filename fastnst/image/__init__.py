"""Files become pictures, and pictures become files.

`picture` is what all others work on: an upright picture in sRGB, whole or as rows that are read when they are needed.
`read` makes it of files (which `decode` opens), streams, PIL images, arrays and tensors, `write` makes files of it with
its `metadata`; `files` knows what is a picture and where one can be written. `resize`, `colour` and `sheet` change
pictures.

Imports fastnst.errors, fork and replacing, and itself. libvips decodes and encodes; it and Pillow are loaded when they
are first used.
"""
