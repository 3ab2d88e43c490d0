"""The micro world: small scenes of coloured shapes, their captions, an exact checker and tiny trained models.

Everything that serves a real Stable Diffusion checkpoint can be run here in minutes on two CPU cores, against a
ground truth that no real image has.
"""
