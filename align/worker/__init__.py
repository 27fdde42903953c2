"""What runs stages: `python -P -m align.worker FD`, one process that imports once and does one job after another.

Jobs come as JSON lines on stdin, events go as JSON lines to file descriptor FD. What a stage prints goes to `log.txt`
of its work folder, its events to `events.jsonl`; both become part of the artifact. Where `RANK` is set the process is
one of several that run the same stage together: rank 0 alone holds the lock, emits events and writes the artifact.

End of stdin means that the runner has finished, or died; in the middle of a job the process then ends at once. The
lock of the key is the worker's own, so until its last instruction no other run touches the same folders.
"""
