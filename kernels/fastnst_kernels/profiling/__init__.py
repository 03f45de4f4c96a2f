"""Time and memory of each operation, against eager PyTorch, torch.compile and the ceilings of the machine.

`losses` has the steps of the Gram losses at the style layers, `steps` those of the other kernels of an iteration;
`step` checks and measures them, `measure` times fairly and knows the machine, `plot` draws the roofline.
"""
