"""What every Python of such an environment does first, by a .pth file: sets what is otherwise unset.

The file beside it, tt_memtrace_mock.json, has the variables, and where the stand-in simulators are if the
release refuses TT_METAL_MOCK_CLUSTER_DESC_PATH.
"""
import json, os


def prepare():
    with open(os.path.splitext(__file__)[0] + ".json") as file:
        given = json.load(file)
    for name, value in given["variables"].items():
        os.environ.setdefault(name, value)
    simulator = given["simulator"]
    if simulator:
        # A simulator is one chip; of the cluster's description only the architecture is kept.
        cluster = os.path.basename(os.environ.pop("TT_METAL_MOCK_CLUSTER_DESC_PATH", "wormhole"))
        os.environ.setdefault("TT_METAL_SIMULATOR", os.path.join(simulator["folder"], cluster.split("_")[0], simulator["file"]))


prepare()
