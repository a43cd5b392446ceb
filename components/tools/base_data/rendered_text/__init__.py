"""Rendered handwriting in quantity: texts in the languages of Europe, written by fonts, as a dataset to train on."""
