"""Compiled kernels of fastlmm_vi: arrays in, arrays out; nothing here checks, prints or raises for a user."""
