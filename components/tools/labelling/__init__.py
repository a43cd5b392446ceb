"""Labels images with what a model reads in them, for a training of the next one."""
