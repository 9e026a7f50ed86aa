# SPDX-License-Identifier: MIT
"""Example 6: calls that run at the same time, and the forms of fork and join."""


def add_ten(x):
    return x + 10


def add_twenty(x):
    return x + 20


vms = connect()
inject(vms, add_ten, add_twenty)

# One function on one VM each.
first = fork(vms[0], add_ten, 1)
second = fork(vms[1], add_twenty, 2)
print(join(first), join(second))

# A list of functions and a list of arguments, mapped to a list of VMs.
print(join(fork(vms[0:2], [add_ten, add_twenty], [1, 2])))

# One function; the range is mapped to the VMs.
print(join(fork(vms, add_ten, range(len(vms)))))

# Whichever is finished first; a sole list for every VM goes in as same(list).
handles = fork(vms, sum, same([1, 2, 3]))
handle, value = joinany(handles)
print(handle in handles, value)
