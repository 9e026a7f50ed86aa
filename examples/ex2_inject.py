# SPDX-License-Identifier: MIT
"""Example 2: what can be injected - data, functions and classes - and used through a handle."""

letters = {1: "a", 2: "b"}


def position(name, names):
    for i, other in enumerate(names):
        if other == name:
            return i
    return None


class Point:
    def __init__(self):
        self.update(0, 0)

    def update(self, x, y):
        self.x = x
        self.y = y

    def __str__(self):
        return f"({self.x}, {self.y})"


vms = connect()
inject(vms, letters, position, Point)   # into all of them
inject(vms[0], limit=3)                 # into one, with a name of its own
for vm in vms:
    point = vm.Point()
    point.update(3, 4)
    print(vm.letters[2], vm.position("Sami", ["Alex", "Sami"]), point)
print(vms[0].limit)
