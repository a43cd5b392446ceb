import os

# Before any of them imports TensorFlow, which writes a page of its start otherwise; their children have it, too.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
