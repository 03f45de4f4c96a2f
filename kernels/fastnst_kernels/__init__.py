"""Fused Gram matrix and Gram-difference loss in Triton."""
