"""The files of a split, as TFX's own ExampleGens name them."""

from __future__ import annotations

import os

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes


class RecordSink(beam.io.filebasedsink.FileBasedSink):
    """Writes lists of records to gzip files with the names that TFX's own ExampleGens give them.

    Beam's sink takes one record at a time, in Python, and compresses with all its might images that are compressed
    already; here they are stored.
    """

    def __init__(self, folder: str):
        """Names the files.

        Args:
            folder: Folder of the split.
        """
        super().__init__(
            os.path.join(folder, "data_tfrecord"),
            beam.coders.BytesCoder(),
            file_name_suffix=".gz",
            compression_type=CompressionTypes.UNCOMPRESSED,  # as far as Beam is concerned
        )

    def open(self, temp_path: str) -> tf.io.TFRecordWriter:
        """Opens a file for records."""
        return tf.io.TFRecordWriter(temp_path, tf.io.TFRecordOptions("GZIP", compression_level=0))

    def write_record(self, file_handle: tf.io.TFRecordWriter, value: list[bytes]) -> None:
        """Writes the records of an element."""
        for record in value:
            file_handle.write(record)

    def close(self, file_handle: tf.io.TFRecordWriter) -> None:
        """Closes a file."""
        file_handle.close()
