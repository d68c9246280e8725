"""Probes: the meta-prover mu asked at the boundaries of a trace. If thinking stops here and the model must answer, is
it right?

J_j = J_r(mu(. | x, z_0:j)) of Qu et al. 2025 (2503.07572, section 4), mu being the model itself behind a forced close.
A probe returns J and its standard error at every cut of every trace; a trace goes through the model once, whatever the
number of its cuts and answers.
"""
