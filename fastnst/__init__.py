"""fastnst: neural style transfer by optimisation, exact to Gatys, Ecker and Bethge (2016)."""

__version__ = "0.1.0"
