"""For gdb, attached to a program that uses TT-Metal: `gdb -batch -p PID -ex "py WANTED=50; OUT='FILE'; AT=ADDRESS" -x gdb_stacks.py`.

Stops at the address WANTED times, and writes a line of JSON each time: the frames that gdb sees, innermost first, each
with the file of its code, the address in the file (a return address in all frames but the first) and the function.
"""
import json

import gdb

gdb.execute("set pagination off")
gdb.execute("set backtrace limit 500")
gdb.execute("set print thread-events off")


def mapped():
    """Where the first byte of each mapped file is."""
    first = {}
    with open(f"/proc/{gdb.selected_inferior().pid}/maps") as maps:
        for line in maps:
            parts = line.split(None, 5)
            if len(parts) == 6 and parts[5].startswith("/"):
                start, end = (int(part, 16) for part in parts[0].split("-"))
                ranges.append((start, end, parts[5].strip()))
                if int(parts[2], 16) == 0:
                    first.setdefault(parts[5].strip(), start)
    return first


ranges = []
first = mapped()
gdb.Breakpoint(f"*{AT}")
with open(OUT, "w") as out:
    for _ in range(WANTED):
        gdb.execute("continue", to_string=True)
        frames, frame = [], gdb.newest_frame()
        while frame is not None:
            pc = frame.pc()
            path = next((path for start, end, path in ranges if start <= pc < end), None)
            frames.append([path, pc - first.get(path, 0), frame.name()])
            frame = frame.older()
        out.write(json.dumps(frames) + "\n")
        out.flush()
gdb.execute("delete")
gdb.execute("detach")
