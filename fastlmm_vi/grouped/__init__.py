"""The grouped linear mixed model y = Xβ + Σ Z_l u_l + ε, from an lme4 formula."""
