# SPDX-License-Identifier: MIT
"""Example 5: an object that lives on a VM. It goes when its last proxy here goes."""


class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        return self.items.pop()

    def __len__(self):
        return len(self.items)

    def __str__(self):
        return str(self.items)


vms = connect()
inject(vms, Stack)
stack = vms[0].Stack()
for letter in "ABC":
    stack.push(letter)
print(stack.pop(), len(stack))
print(stack)
