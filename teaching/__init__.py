"""Lessons as percent-format sources, and what makes notebooks, slides and a handout of them."""
