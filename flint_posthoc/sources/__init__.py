"""What the command line names in words: classifiers and their weights, data sets and pictures."""
