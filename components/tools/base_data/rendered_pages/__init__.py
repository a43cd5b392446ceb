"""Pages of rendered handwriting and print whose lines are known."""
