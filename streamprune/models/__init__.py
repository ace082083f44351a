"""One file per model family, named by its ``model_type``, and what they share.

``base`` says what a family must give, ``loading`` turns a name or folder into one.
"""
