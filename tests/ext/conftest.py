# SPDX-License-Identifier: MIT
"""The extension, built against fake_trickle.c: its tests need no VMs and no libtrickle.

One abi3 file is built, with the headers of the Python that runs pytest, and loaded by this and
by every other CPython found on the machine.
"""
import pickle
import sys

import pytest

from ext_build import LIMITED, build


@pytest.fixture(scope="session")
def ext_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ext")
    build(folder, LIMITED)
    return folder


@pytest.fixture(scope="session")
def ext(ext_folder):
    sys.path.insert(0, str(ext_folder))
    import _trickle
    return _trickle


@pytest.fixture
def farm(ext):
    farm = ext.Farm(program="test")
    yield farm
    farm.close()


@pytest.fixture
def vms(farm):
    return farm.connect()


class Count:
    """dumps and loads that count how often the pickle module was needed."""

    def __init__(self):
        self.dumped = self.loaded = 0

    def dumps(self, obj):
        self.dumped += 1
        return pickle.dumps(obj, 5)

    def loads(self, view):
        self.loaded += 1
        assert isinstance(view, memoryview) and view.readonly
        return pickle.loads(view)


@pytest.fixture
def count():
    return Count()
