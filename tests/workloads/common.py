"""What the workloads share: they run on a mock device, answer in JSON lines, and wait for stdin.

TT_METAL_MOCK_CLUSTER_DESC_PATH names the mock device. TT-Metal's logger is off: it writes to stdout,
with the time of day.
"""
import json, os, sys

os.environ["TT_LOGGER_LEVEL"] = "off"
import ttnn


def say(**fields):
    print(json.dumps(fields), flush=True)


def wait():
    """Until a line comes on stdin, or its end."""
    return sys.stdin.readline().strip()


def live(device):
    """TT-Metal's own list of live owning buffers."""
    return [
        dict(address=x.address, buffer_type=x.buffer_type.name, device_id=x.device_id, bytes_per_bank=x.max_size_per_bank)
        for x in ttnn._ttnn.reports.get_buffers(device)
    ]


def banks(device):
    """How many banks each type of memory has."""
    return {t.name: ttnn.get_memory_view(device, t).num_banks for t in (ttnn.BufferType.DRAM, ttnn.BufferType.L1)}


def tensor(t):
    memory = t.memory_config()
    return dict(
        address=t.buffer_address(),
        dtype=t.dtype.name,
        layout=t.layout.name,
        padded_shape=list(t.padded_shape),
        buffer_type=memory.buffer_type.name,
        memory_layout=memory.memory_layout.name,
    )
