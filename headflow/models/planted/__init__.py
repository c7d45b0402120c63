"""Models whose answer is known: LLaVA checkpoints with constructed weights, in which a known set of heads carries the picture.

``headflow.load("planted:additive")`` builds one. :mod:`.circuits` says what is planted and what every head is worth; :mod:`.network`
turns it into weights.
"""
