# SPDX-License-Identifier: MIT
"""A handle is enough to keep a VM: the list that it came from may go."""


def test_a_handle_keeps_its_vm(trickle_command, tmp_path):
    program = tmp_path / "prog.py"
    program.write_text("import gc\nvm = connect()[0]\ngc.collect()\nprint(vm.len('abc'))\n"
                       "del vm\ngc.collect()\nprint(len(connect()))\n")
    result = trickle_command("run", "--local=2", program)
    assert (result.returncode, result.stdout) == (0, "3\n2\n"), result.stderr
