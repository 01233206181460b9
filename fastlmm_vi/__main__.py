"""`python -m fastlmm_vi` is the command `fastlmm-vi`."""

from .cli import main

main()
