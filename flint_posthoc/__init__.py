"""flint_posthoc: explain any pretrained image classifier in learned, human-viewable attributes."""
