"""The log of a run as the event files of TensorBoard."""

import contextlib
import importlib
import importlib.util
import time
from pathlib import Path

FOLDER = "tensorboard"  # in that of the run


def check_tensorboard():
    """ValueError when TensorBoard, which writes the files, is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("--tensorboard needs TensorBoard; pip install 'autotx[tensorboard]'")


@contextlib.contextmanager
def event_files(folder, records):
    """`with event_files(folder, records) as write:` write(record) adds the numbers of a record, each by its name.

    folder: that of the run. records: those in its log so far. They are written anew, to one file in place of those of
    before, as a run that was killed does steps again that it had logged.
    """
    # Here, because TensorBoard loads slowly and need not be installed
    names = ("compat.proto.event_pb2", "compat.proto.summary_pb2", "summary.writer.event_file_writer")
    events, summaries, writers = (importlib.import_module(f"tensorboard.{name}") for name in names)

    def write(record):
        numbers = {name: number for name, number in record.items() if name != "step" and number is not None}
        values = [summaries.Summary.Value(tag=name, simple_value=number) for name, number in numbers.items()]
        summary = summaries.Summary(value=values)
        file.add_event(events.Event(wall_time=time.time(), step=record["step"], summary=summary))

    for path in Path(folder, FOLDER).glob("events.out.tfevents.*"):
        path.unlink()
    file = writers.EventFileWriter(str(Path(folder, FOLDER)))
    try:
        for record in records:
            write(record)
        yield write
    finally:
        file.close()
