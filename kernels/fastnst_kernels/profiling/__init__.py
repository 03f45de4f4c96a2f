"""Time and memory of each operation, against eager PyTorch, torch.compile and the ceilings of the machine.

`steps` has the operations and their contenders, `step` checks and measures them, `measure` times fairly and knows the
machine, `plot` draws the roofline.
"""
