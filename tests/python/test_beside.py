# SPDX-License-Identifier: MIT
"""The built-in modules on a VM of Python, beside Python's own work."""
import trickle
from trickle import _farm, _trickle

THREAD = """
import os, threading, time
def answer(place):
    while not os.path.exists(place + "/asked"):
        time.sleep(0.001)
    open(place + "/answered", "w").close()
threading.Thread(target=answer, args=[{place!r}], daemon=True).start()
"""
COMMAND = "touch asked; until [ -e answered ]; do sleep 0.01; done; echo answered"


def test_a_command_leaves_python_free_for_its_threads(supervisor, tmp_path):
    with trickle.connect(1) as vms:
        vms[0].exec(THREAD.format(place=str(tmp_path)))
        spec = _trickle.exec_spec({"argv": [COMMAND], "shell": True, "cwd": str(tmp_path)})
        work = _farm.farm().work("ask", spec, list=vms._raw, module="exec")
        work.feed(iter([object()]), None, lambda element: _trickle.exec_element([]))
        got = work.next(20.0, lambda payload: _trickle.exec_result(bytes(payload)))
        assert got is not None, "a thread of the VM did not run while the command did, for 20 s"
        assert got[1] == _trickle.STATUS_OK, got
        assert got[2]["stdout"] == b"answered\n"
        assert vms[0].eval("1 + 1") == 2  # and Python goes on
