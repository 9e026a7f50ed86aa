# SPDX-License-Identifier: MIT
"""Elements that a job keeps: read back, gone on with, shown, by the extension on real VMs."""
import pickle

import pytest

import trickle
from trickle import _trickle
from trickle._work import _stage


@pytest.fixture
def farm_of(supervisor, tmp_path):
    """Opens the job of the test, and a farm with two VMs: (job, work with that list fed to it)."""
    opened = []

    def close():
        while opened:
            opened.pop().close()

    def open_all():
        close()
        job = _trickle.Job("kept", home=str(tmp_path))
        farm = _trickle.Farm(job=job)
        vms = farm.connect(2, True, 20000)
        opened.extend([job, farm])
        function, name = _stage(abs, [], {}, None)
        return job, farm.work(name, function, list=vms, key="k", fingerprint=b"c" * 16,
                              keep_elements=True)
    yield open_all, close
    close()


def dumps(value):
    return pickle.dumps(value, 5)


def finish(work, values, **options):
    """The results of these values."""
    results, values = [], iter(values)
    while not work.feed(values, None, dumps, **options):
        assert work.collect(results, pickle.loads, 0.01) in (None, True)
    while work.collect(results, pickle.loads, None) is not True:
        pass
    return results


def test_a_job_goes_on_with_what_it_has(farm_of, tmp_path):
    open_all, close = farm_of
    values = [-1, -2, -10**30, -2.5, *range(-3000, 0)]
    job, work = open_all()
    assert job.stage_info("k") == (0, False) and job.stage_info("other") is None
    assert finish(work, values, leave_open=True) == [abs(v) for v in values]
    job, work = open_all()
    assert job.stage_info("k") == (len(values), False)
    again = [pickle.loads(e) for e in job.elements("k")]
    assert again == values and pickle.loads(next(job.elements("k", start=4))) == -3000
    assert finish(work, again) == [abs(v) for v in values]
    assert work.progress()["restored"] == len(values)
    job, work = open_all()
    assert job.stage_info("k") == (len(values), True)
    close()
    view = _trickle.View("kept", home=str(tmp_path))
    number = view.stages()[0]["number"]
    assert [pickle.loads(view.element(number, i)) for i in (0, 2, 3003)] == [-1, -10**30, -1]
    assert view.element(number, 3004) is view.element(number + 1, 0) is None
    view.close()


def test_what_was_not_kept_is_told(farm_of, supervisor, tmp_path):
    job = _trickle.Job("kept", home=str(tmp_path))
    farm = _trickle.Farm(job=job)
    function, name = _stage(abs, [], {}, None)
    work = farm.work(name, function, list=farm.connect(1, True, 20000), key="k",
                     fingerprint=b"c" * 16)
    assert finish(work, [-1, -2]) == [1, 2]
    with pytest.raises(trickle.TrickleError, match="element 0 of abs.*only go on with its list"):
        list(job.elements("k"))
    with pytest.raises(LookupError, match="no work of the key other"):
        job.elements("other")
    farm.close()
    job.close()
    open_all, _close = farm_of
    job, work = open_all()
    assert finish(work, [-1, -2]) == [1, 2]
    job, work = open_all()
    assert [pickle.loads(e) for e in job.elements("k")] == [-1, -2]
