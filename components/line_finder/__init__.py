"""The line finder: a small network that marks the lines of a page, its training, and how it is measured."""
