"""reports.py kill|wait|freed|close|exit CODE: allocates, keeps, replaces and frees tensors. Prints, from TT-Metal's own
list of buffers and by the line that allocated them, what is live at the end and what was live at the peaks. Twice it asks
for more than there is. wait: waits for a line on stdin after each of these failures.

The pages of these tensors fill all banks equally, so the bytes in TT-Metal's list are the tensors' own.
"""
import os, signal, sys, time, traceback

from common import banks, live, say, ttnn, wait

end = sys.argv[1]
device = ttnn.open_device(device_id=0)
banks = banks(device)
allocations, peaks, failures, freed, kept = {}, {}, [], [], []


def line():
    return next(frame.lineno for frame in reversed(traceback.extract_stack()) if frame.name == "<module>")


def listed():
    """The bytes of the live buffers of each type of memory, by address."""
    lists = {name: {} for name in banks}
    for buffer in live(device):
        name = buffer["buffer_type"]
        lists[name][buffer["address"]] = buffer["bytes_per_bank"] * banks[name]
    return lists


def composition(name):
    """Numbers and bytes of live buffers of that type, by line."""
    by_line = {}
    for address, size in listed()[name].items():
        held = by_line.setdefault(allocations[name, address]["line"], [0, 0])
        held[0] += 1
        held[1] += size
    return by_line


def made(make):
    """Allocates a tensor, and notes when, on which line, and whether this is a new peak."""
    before, start = listed(), time.monotonic_ns()
    tensor = make()
    stop, after = time.monotonic_ns(), listed()
    for name in banks:
        for address in after[name].keys() - before[name].keys():
            allocations[name, address] = dict(line=line(), number=len(allocations), earliest=start, latest=stop)
        total = sum(after[name].values())
        if total > peaks.get(name, dict(bytes=0))["bytes"]:
            peaks[name] = dict(bytes=total, earliest=start, latest=stop, lines=composition(name))
    return tensor


def free(tensor, others):
    """Frees a tensor. `others`: how many allocations there have been since its own."""
    memory = tensor.memory_config().buffer_type.name
    address = tensor.buffer_address()
    size = listed()[memory][address]
    ttnn.deallocate(tensor)
    assert address not in listed()[memory]
    freed.append(dict(line=allocations[memory, address]["line"], buffer_type=memory, bytes=size, others=others))


def dram(tiles):
    return ttnn.empty((1, 1, 32, 32 * 12 * tiles), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device)


def l1(tiles):
    spec = dict(layout=ttnn.TILE_LAYOUT, device=device, memory_config=ttnn.L1_MEMORY_CONFIG)
    return ttnn.empty((1, 1, 32, 32 * 64 * tiles), dtype=ttnn.bfloat16, **spec)


def too_much(memory, sides):
    """Asks for too much, and notes TT-Metal's message and what is live."""
    config = dict(DRAM=ttnn.DRAM_MEMORY_CONFIG, L1=ttnn.L1_MEMORY_CONFIG)[memory]
    held = composition(memory)
    try:
        ttnn.empty((64, 1, *sides), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=device, memory_config=config)
    except RuntimeError as error:
        message = next(text for text in str(error).split("\n") if "Out of Memory" in text)
        failures.append(dict(line=line(), buffer_type=memory, message=message, lines=held))
        say(pid=os.getpid(), **failures[-1])
        if end == "wait":
            wait()


kept.append(made(lambda: dram(1)))
for tiles in (2, 3, 4, 5):
    kept.append(made(lambda: dram(tiles)))
kept.append(made(lambda: dram(6)))
kept.append(made(lambda: dram(7)))
kept.append(made(lambda: dram(8)))
kept.append(made(lambda: dram(9)))
kept.append(made(lambda: dram(10)))
kept.append(made(lambda: dram(11)))
kept.append(made(lambda: dram(12)))
kept.append(made(lambda: dram(13)))
kept.append(made(lambda: dram(14)))
kept.append(made(lambda: dram(15)))
kept.append(made(lambda: dram(16)))
kept.append(made(lambda: l1(1)))
kept.append(made(lambda: l1(2)))

# The peaks. The tensors that are freed again are as large as those that stay.
at_once = made(lambda: dram(20))
free(at_once, 0)
large = made(lambda: dram(100))
larger = made(lambda: dram(200))
in_l1 = made(lambda: l1(4))
too_much("DRAM", (16384, 16384))
free(larger, 1)
# The failed allocation does not count. The peak was before it, and is not reached again.
again = made(lambda: dram(150))
free(large, 3)
free(again, 0)
too_much("L1", (8192, 8192))
free(in_l1, 1)
kept.append(made(lambda: ttnn.add(kept[0], kept[0])))

now, last = time.monotonic_ns(), {name: composition(name) for name in banks}
still = [
    dict(allocation, buffer_type=name)
    for (name, address), allocation in allocations.items()
    if address in listed()[name]
]
say(pid=os.getpid(), now=now, live=last, allocations=still, peaks=peaks, failures=failures, freed=freed)
if end in ("kill", "wait"):
    os.kill(os.getpid(), signal.SIGKILL)
if end == "exit":
    os._exit(int(sys.argv[2]))
if end == "freed":
    for tensor in kept:
        ttnn.deallocate(tensor)
    os._exit(0)
ttnn.close_device(device)
