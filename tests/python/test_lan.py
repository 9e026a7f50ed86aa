# SPDX-License-Identifier: MIT
"""VMs on another machine: two network namespaces with addresses, runtime directories and a
cable of their own. Found by multicast, reached by TCP. Needs root."""
import json
import os
import subprocess

import pytest

from supervisors import BUILD

PROGRAM = """
def where(x):
    return x * x, open("/proc/self/cmdline").read() != ""
vms = connect(2)
inject(vms, where)
print(sorted(forkwork(vms, where, range(5))))
print([vm.where(7)[0] for vm in vms])
"""


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


def may_make_namespaces():
    name = f"trkprobe{os.getpid()}"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    ip("netns", "del", name)
    return True


@pytest.fixture
def cable(tmp_path):
    """Two namespaces, joined; the names, the address of the second."""
    if not may_make_namespaces():
        pytest.skip("making network namespaces needs root")
    pid = os.getpid()
    names = [f"trka{pid}", f"trkb{pid}"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", f"va{pid}", "netns", names[0], "type", "veth",
           "peer", "name", f"vb{pid}", "netns", names[1])
        for name, link, address in [(names[0], f"va{pid}", "10.77.3.1/24"),
                                    (names[1], f"vb{pid}", "10.77.3.2/24")]:
            ip("-n", name, "addr", "add", address, "dev", link)
            ip("-n", name, "link", "set", link, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names, "10.77.3.2"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def in_namespace(name, runtime, *command, **options):
    runtime.mkdir(mode=0o700, exist_ok=True)
    env = {k: v for k, v in os.environ.items()
           if not k.startswith("TRICKLE_") or k == "TRICKLE_HOME"}
    env["TRICKLE_RUNTIME"] = str(runtime)
    return subprocess.Popen(["ip", "netns", "exec", name, *map(str, command)], env=env, text=True,
                            stdin=subprocess.DEVNULL, **options)


@pytest.fixture
def far_vms(cable, tmp_path):
    names, address = cable
    ready, write = os.pipe()
    process = in_namespace(names[1], tmp_path / "b", BUILD / "trickle-vm", "-n", 2, "--lan",
                           "--listen", address, "--insecure", "--ready-fd", write,
                           pass_fds=[write], stderr=subprocess.PIPE)
    os.close(write)
    assert os.read(ready, 1) != b"", process.stderr.read()
    os.close(ready)
    told = ""
    while "VMs on" not in told:
        told += process.stderr.readline()
    assert "warning: --insecure" in told  # each time
    yield told
    process.terminate()
    process.communicate(timeout=20)


def run_here(cable, tmp_path, *words):
    process = in_namespace(cable[0][0], tmp_path / "a", BUILD / "trickle", *words,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "prog.py"
    path.write_text(PROGRAM)
    return path


def test_vms_of_another_machine_are_found_by_multicast_and_work(cable, far_vms, program, tmp_path):
    status, out, err = run_here(cable, tmp_path, "run", "--lan", "--insecure", program)
    assert (status, err) == (0, "[trickle: discovered 2 VMs]\n")
    assert out == "[(0, True), (1, True), (4, True), (9, True), (16, True)]\n[49, 49]\n"


def test_vms_of_another_machine_are_reached_by_tcp(cable, far_vms, tmp_path):
    status, out, err = run_here(cable, tmp_path, "vms", "--json", "--lan", "--insecure")
    assert status == 0, err
    addresses = [vm["address"] for vm in json.loads(out)]
    assert len(addresses) == 2
    assert all(address.startswith(f"tcp:{cable[1]}:") for address in addresses), addresses


def test_a_list_of_hosts_does_without_multicast(cable, far_vms, program, tmp_path):
    port = far_vms.split("listening on", 1)[1].split()[0].rsplit(":", 1)[1]
    status, out, err = run_here(cable, tmp_path, "run", "--insecure", "--hosts",
                                f"{cable[1]}:{port}", program)
    assert status == 0, err
    assert out.endswith("[49, 49]\n")


def test_other_machines_are_not_used_without_insecure(cable, far_vms, program, tmp_path):
    status, _, err = run_here(cable, tmp_path, "run", "--lan", program)
    assert status == 1
    assert "are not encrypted yet" in err
