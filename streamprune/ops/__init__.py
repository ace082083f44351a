"""Tensor primitives shared by the methods: plain functions of tensors that know no model and no method.

Scores are computed in float32 whatever comes in, and ties go to the lower index.
"""
