"""What the sums of each term are multiplied by: the forms in which tools write the same objective.

`F` (C × M) are the image's features at a layer, `P` the content's, `G = F Fᵀ / M`, `A` the Gram matrix of the style (or
the covariance matrices).

======================  ==================================  ==========================================
form                    content                             style
======================  ==================================  ==========================================
relative                Σ (F − P)² / Σ P²                   Σ (G − A)² / Σ A²
paper                   ½ Σ (F − P)²                        Σ (G − A)² / (4 C²)
mean                    Σ (F − P)² / (C·M)                  Σ (G − A)² / C²
root                    Σ (F − P)² / (2 √(C·M))
channel-mean                                                Σ (G/C − A/C)² / C²
======================  ==================================  ==========================================

`mean` of the style is also the sum of squares of Gram matrices divided by C·M, as some tools write them, and
`channel-mean` the mean of those.
"""

import math


def content_factor(form: str, energy: float, count: int) -> float:
    """What `Σ (F − P)²` is multiplied by: `energy` is Σ P², `count` is C·M, both of the whole picture."""
    if form == "paper":
        return 0.5
    if form == "mean":
        return 1 / count
    if form == "root":
        return 1 / (2 * math.sqrt(count))
    # The features of a black picture may all be 0.
    return 1 / max(energy, math.ulp(1.0))


def style_factor(form: str, energy: float, filters: int) -> float:
    """What the paper's `Σ (G − A)² / (4 C²)` is multiplied by: `energy` is Σ A², `filters` is C."""
    if form == "paper":
        return 1.0
    if form == "mean":
        return 4.0
    if form == "channel-mean":
        return 4 / filters**2
    return 4 * filters**2 / max(energy, math.ulp(1.0))
