"""Labels images with what a model recognises in them, for a training of the next one."""
