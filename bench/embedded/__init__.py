"""The recipe of the embedded network: its pictures, training, export and the sheets by which it is judged."""
