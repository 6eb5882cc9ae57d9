"""Shared by the workloads, which run on a mock device, print JSON lines, and wait for lines on stdin.

TT_METAL_MOCK_CLUSTER_DESC_PATH names the mock device. TT-Metal's logger is off, since it writes to stdout.
"""
import ctypes, json, mmap, os, sys

os.environ["TT_LOGGER_LEVEL"] = "off"
import ttnn


def say(**fields):
    print(json.dumps(fields), flush=True)


def wait():
    """Waits for a line on stdin, or for its end."""
    return sys.stdin.readline().strip()


def live(device):
    """TT-Metal's own list of live owning buffers."""
    return [
        dict(address=x.address, buffer_type=x.buffer_type.name, device_id=x.device_id, bytes_per_bank=x.max_size_per_bank)
        for x in ttnn._ttnn.reports.get_buffers(device)
    ]


def banks(device):
    """The number of banks of each type of memory."""
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


# On a mock device, ProgramImpl::populate_dispatch_data and program_dispatch::finalize_kernel_bins do nothing.
GATHER = "_ZN2tt8tt_metal6detail11ProgramImpl22populate_dispatch_dataEPNS0_7IDeviceE"
FINALIZE = (
    "_ZN2tt8tt_metal16program_dispatch20finalize_kernel_binsEPNS0_7IDeviceEjRKSt13unordered_mapIjSt10shared_ptrINS0_6"
    "KernelEESt4hashIjESt8equal_toIjESaISt4pairIKjS7_EEERSt6vectorIS5_INS0_11KernelGroupEESaISL_EEjRjSP_"
)
CHECK = b"\x24\xfe\x3c\x02\x75"  # and $0xfe,%al; cmp $2,%al; jne: jumps if the device is no mock
ALWAYS = b"\xeb"  # jmp


def binaries_are_gathered():
    """Makes this process gather kernel binaries on a mock device, too. Returns whether that succeeded."""
    if "TT_METAL_SLOW_DISPATCH_MODE" in os.environ:
        return False
    with open("/proc/self/maps") as maps:
        path = next(line.split()[-1] for line in maps if "/libtt_metal.so" in line)
    library = ctypes.CDLL(path)
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    changed = set()
    for name in (GATHER, FINALIZE):
        if hasattr(library, name):
            function = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            at = ctypes.string_at(function, 96).find(CHECK)
            if at >= 0:
                jump = function + at + len(CHECK) - 1
                page = jump & -mmap.PAGESIZE
                assert not protect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
                ctypes.memmove(jump, ALWAYS, len(ALWAYS))
                assert not protect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)
                changed.add(name)
    return GATHER in changed
