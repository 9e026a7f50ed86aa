# SPDX-License-Identifier: MIT
"""trickle map, without VMs: the command's words, the list, the options."""
import os
import subprocess

import pytest

from supervisors import PACKAGES  # first: it says where the package is
from trickle import _trickle
from trickle.cli import UsageError
from trickle.map_command import Plan, long_options
from trickle.map_list import Format, ListError, Records, arguments
from trickle.map_words import Fields, command_words, shell_words, shown


def argv(typed, values, fields=None, number=0, **keywords):
    """What a command becomes of these values."""
    words = command_words(typed, fields or Fields(len(values)), **keywords)
    return _trickle.exec_argv(_trickle.exec_spec({"argv": words}), _trickle.exec_element(values),
                              number)


@pytest.mark.parametrize("typed, made", [
    (["echo"], [b"echo", b"a b/c.d"]),
    (["echo {}"], [b"echo", b"a b/c.d"]),
    (["echo", "x y", "{}"], [b"echo", b"x y", b"a b/c.d"]),
    (["cp {} /tmp/{/}.old"], [b"cp", b"a b/c.d", b"/tmp/c.d.old"]),
    (["echo '{.} {//}' \"{/.}\" {#}"], [b"echo", b"a b/c a b", b"c", b"1"]),
    (["echo {#}"], [b"echo", b"1"]),
    (["echo {1} {1/.}"], [b"echo", b"a b/c.d", b"c"]),
    (["awk", "{print $1}", "{}"], [b"awk", b"{print $1}", b"a b/c.d"]),
    (["grep -E 'x{2}' {}"], [b"grep", b"-E", b"x{2}", b"a b/c.d"]),
    (["echo 'a|b' \\; {}"], [b"echo", b"a|b", b";", b"a b/c.d"]),
])
def test_words_are_split_before_values_go_in(typed, made):
    assert argv(typed, [b"a b/c.d"]) == made


ODD_VALUES = [b"", b"a b", b"new\nline", b"\xff\xfe", b"'\"$(x)`", b"{}", b"-n", b"~"]


@pytest.mark.parametrize("value", ODD_VALUES)
def test_a_value_stays_one_argument(value):
    assert argv(["echo {} x{}"], [value]) == [b"echo", value, b"x" + value]


@pytest.mark.parametrize("value", ODD_VALUES)
def test_a_shell_gets_values_quoted(value):
    words = shell_words("/bin/sh", ["printf %s {} | cat; printf x{}"], Fields())
    spec = _trickle.exec_spec({"argv": words})
    made = _trickle.exec_argv(spec, _trickle.exec_element([value]), 0)
    assert made[:2] == [b"/bin/sh", b"-c"]
    assert subprocess.run(made, capture_output=True).stdout == value + b"x" + value


@pytest.mark.parametrize("value", [b"a b", b"new\nline\t", b"\xff\xfe", b"'\"$(x)`\\", b"", b"~a",
                                   "ä ö".encode(), b"\x01\x7f"])
def test_a_shown_command_can_be_copied_to_bash(value):
    line = shown([b"printf", b"%s", value])
    assert "\n" not in line
    assert subprocess.run(["bash", "-c", os.fsencode(line)], capture_output=True).stdout == value


@pytest.mark.parametrize("sign", "|&;<>()$`")
def test_what_only_a_shell_can_do_is_refused_without_one(sign):
    with pytest.raises(UsageError, match="--shell"):
        command_words([f"echo {{}} {sign} x"], Fields())
    assert command_words([f"echo '{sign}'"], Fields())


def test_records_with_several_fields():
    fields = Fields(2, ["name", "two words"])
    assert argv(["echo {name} '{two words}' {2} {1.}"], [b"a.b", b"c"], fields) == [
        b"echo", b"a.b", b"c", b"c", b"a"]
    assert argv(["echo"], [b"a", b"b"], fields) == [b"echo", b"a", b"b"]
    assert argv(["echo {}"], [b"a", b"b"], fields) == [b"echo", b"a", b"b"]
    for wrong, why in (("{}x", "say which"), ("{nmae}", "there are: name"), ("{3}", "2 fields")):
        with pytest.raises(UsageError, match=why):
            command_words([f"echo {wrong}"], fields)
    assert b"".join(shell_words("sh", ["echo ${HOME} {name}"], fields)[2][:1]) == b"echo ${HOME} "


def test_another_string_can_stand_for_the_line():
    assert argv(["find {} -name ,,"], [b"a"], Fields(stands=",,")) == [
        b"find", b"{}", b"-name", b"a"]


# --- against GNU parallel -----------------------------------------------------------------------

VALUES = ["a/b.c.d", "x", ".h", "a/.h", "a.b/c", "/x", "//x//y.z", "a b/c d.e f", "a/b.", "a..b"]


def test_transforms_are_those_of_gnu_parallel(tmp_path):
    if subprocess.run(["which", "parallel"], capture_output=True).returncode:
        pytest.skip("GNU parallel is not installed")
    template = "printf %s[ {} {.} {/} {//} {/.} {#}"
    theirs = subprocess.run(["parallel", "-k", template, ":::", *VALUES], capture_output=True,
                            env=os.environ | {"PARALLEL_HOME": str(tmp_path)}).stdout
    made = [argv([template], [os.fsencode(v)], number=i)[2:] for i, v in enumerate(VALUES)]
    ours = b"".join(word + b"[" for words in made for word in words)
    assert ours == theirs


# --- lists ----------------------------------------------------------------------------------------

def rows(data, kind="lines", pieces=1, **keywords):
    """All records of these bytes, which come in pieces."""
    read, write = os.pipe()
    try:
        records = Records(read, Format(kind, **keywords))
        step = max(len(data) // pieces, 1)
        for at in range(0, len(data), step):
            os.write(write, data[at:at + step])
            records.fill(0)
        os.close(write)
        while not records.is_ended:
            records.fill(0)
        if records.error is not None:
            raise records.error
        return list(records.ready), records.form.fields
    finally:
        os.close(read)


@pytest.mark.parametrize("pieces", [1, 3, 1000])
@pytest.mark.parametrize("data, kind, keywords, wanted", [
    (b"a\n\nb c\r\nd", "lines", {}, [[b"a"], [b""], [b"b c\r"], [b"d"]]),
    (b"a\n\n b\n", "lines", {"skip_empty": True}, [[b"a"], [b" b"]]),
    (b"\xff\xfe\n", "lines", {}, [[b"\xff\xfe"]]),
    (b"a\nb\0c\0", "null", {}, [[b"a\nb"], [b"c"]]),
    (b"", "lines", {}, []),
    (b'n,m\n1,"2 ""x"", y"\r\n"a\nb",\xff\n', "csv", {"has_header": True},
     [[b"1", b'2 "x", y'], [b"a\nb", b"\xff"]]),
    (b"1,2\n3,4\n", "csv", {}, [[b"1", b"2"], [b"3", b"4"]]),
    (b'\xef\xbb\xbfn\tm\n"1\t2\n\n', "tsv", {"has_header": True}, [[b'"1', b"2"]]),
    (b"1  2\r\n3 4\n", "colsep", {"colsep": " +"}, [[b"1", b"2"], [b"3", b"4"]]),
    (b'{"a": 1}\n', "jsonl", {}, [[b'{"a": 1}']]),
])
def test_lists_are_cut_into_records(data, kind, keywords, wanted, pieces):
    assert rows(data, kind, pieces, **keywords)[0] == wanted


def test_the_first_record_names_the_columns():
    fields = rows(b"a,b c\n1,2\n", "csv", has_header=True)[1]
    assert (fields.count, fields.names) == (2, ["a", "b c"])


def test_members_of_json():
    form = Format("jsonl")
    command_words(["echo {s} {n.} {o} {e} {z}"], form.fields)
    line = '{"s": "a b", "n": 1.5, "o": {"x": [1, "ä"]}, "e": null, "z": true, "more": 0}'.encode()
    assert form.cut(line) == [line, b"a b", b"1.5", '{"x": [1, "ä"]}'.encode(), b"", b"true"]
    assert argv(["echo {n.} {}"], form.cut(line), form.fields) == [b"echo", b"1", line]
    with pytest.raises(ListError, match="'s'"):
        form.cut(b'{"n": 1}')
    with pytest.raises(ListError, match="nested too deeply"):
        form.cut(b"[" * 100000)
    with pytest.raises(ListError, match="'s' in it has half a surrogate pair"):
        form.cut(rb'{"s": "\ud800", "n": 1, "o": 1, "e": 1, "z": 1}')


@pytest.mark.parametrize("data, kind, why", [
    (b"a\nb\0c\n", "lines", "line 2: .*zero byte.*-0"),
    (b"a,b\n1,2\n3\n", "csv", "line 3: .*1 fields, and 2"),
    (b'a,b\n1,"2\n3,4\n', "csv", "line 2: a quote is open"),
    (b'a,b\n1,"2"x\n', "csv", "line 2: this is no CSV"),
    (b"{}\n{\n", "jsonl", "line 2: this is no JSON"),
    (b"a\ta\n", "tsv", "same name"),
])
def test_what_is_wrong_with_a_list_is_said_with_its_line(data, kind, why):
    with pytest.raises(ListError, match=why):
        rows(data, kind, has_header=kind in ("csv", "tsv"))


def test_arguments_are_combined_the_last_the_fastest():
    given = arguments([["a", "b"], ["1", "2"]])
    given.fill(0)
    assert list(given.ready) == [[b"a", b"1"], [b"a", b"2"], [b"b", b"1"], [b"b", b"2"]]


# --- options --------------------------------------------------------------------------------------

@pytest.mark.parametrize("typed, long", [
    ("-j4 -0k -a list echo -k", "--local=4 --null --keep-order --arg-file=list echo -k"),
    ("-j 4 --jobs 2 --jobs=3 echo", "--local=4 --local=2 --local=3 echo"),
    ("-C, -I,, --env A --wd /x -- -k", "--colsep=, -I=,, --env=A --cwd=/x -- -k"),
    ("--local --tag -x", "--local --tag -x"),
])
def test_options_of_gnu_parallel_are_understood(typed, long):
    assert long_options(typed.split()) == long.split()


@pytest.mark.parametrize("options, why", [
    ({"--csv": True, "--tsv": True}, "exclude"),
    ({"--header": ":"}, "only --csv"),
    ({"--timeout": "x"}, "10m"),
    ({"--timeout": "0"}, "10m"),
    ({"--retries": "-1"}, "0 to"),
    ({"--max-output": "1T"}, "256M"),
    ({"--halt": "soon"}, "fail=N"),
    ({"--env": ["NOT_HERE"]}, "no such variable"),
    ({"--check": "true"}, "--output"),
    ({"--output": ["x"]}, "{output}"),
    ({"--colsep": "("}, "regular expression"),
])
def test_wrong_options_are_refused_with_a_sentence(options, why):
    with pytest.raises(UsageError, match=why):
        Plan(options, ["echo"], []).spec()


def test_times_and_sizes_have_units():
    plan = Plan({"--timeout": "1.5m", "--max-output": "10k", "--halt": "now,fail=3"}, ["x"], [])
    assert (plan.timeout_ms, plan.keep, plan.halt) == (90000, 10240, (True, 3))
