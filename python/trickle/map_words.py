# SPDX-License-Identifier: MIT
"""The command of trickle map: from what was typed to words with places for values.

A word is a list of pieces: bytes as they are, and places for values. Values are put in when the
command is run, on the VM, so no shell ever sees them (unless --shell asks for one, and then they
are quoted for it): a value with blanks, newlines or bytes that are not UTF-8 stays one argument.

    {}  {.}  {/}  {//}  {/.}  {#}       as in GNU parallel
    {1}  {1.} ...  {name}  {name.} ...  of records with several fields
    {output}  {output2}                 where the command is to write what --output names

Other braces are left alone. The words go to the VM as part of a spec (include/trickle/exec.h), and
what they are with their values is made there; shown() is how that looks to people (--dry-run, why,
--joblog).
"""
from __future__ import annotations

import os
import re

from .cli import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    # A piece of a word, as the spec has it: text, or (kind, index, transform, quoted for a shell).
    Piece = bytes | tuple[str, int, str, bool]
    Word = list[Piece]

HOWS = ("", "//", "/.", "/", ".")  # what a placeholder makes of a value, longer ones first
_PLACE = re.compile(r"\{([^{}\n]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_SAFE = re.compile(rb"[A-Za-z0-9_@%+=:,./-]+")


class Fields:
    """What placeholders can name."""

    def __init__(self, count: int = 1, names: Sequence[str] = (), *, is_json: bool = False,
                 stands: str = "{}") -> None:
        self.count = count  # of fields in each element
        self.names = list(names)  # of fields 0, 1, ...; of JSON: of 1, 2, ..., as they are wanted
        self.is_json = is_json
        self.stands = stands  # what stands for the whole record: {}, or what -I says

    def whole(self) -> range:
        return range(1 if self.is_json else self.count)

    def find(self, name: str, is_variable: bool) -> int | None:
        """The field that a placeholder names; None: it is not a placeholder. is_variable: it is a
        shell's ${name}."""
        if name.isascii() and name.isdigit() and int(name) > 0 and not self.is_json:
            if int(name) > self.count > 1:
                raise UsageError(f"{{{name}}} is not there: a record has {self.count} fields")
            return int(name) - 1 if int(name) <= self.count else None
        if name in self.names:
            return self.names.index(name) + self.is_json
        if is_variable or not _NAME.fullmatch(name):
            return None
        if self.is_json:
            self.names.append(name)
            return len(self.names)
        if self.names:
            raise UsageError(f"there is no field {{{name}}}; there are: {', '.join(self.names)}")
        return None


def parse(text: str, fields: Fields, outputs: int = 0, is_quoted: bool = False) -> Word:
    """One word. Of a record with several fields {} is all of them, which only a shell can take in
    one word."""
    word: Word = []
    done = 0
    places = _PLACE if fields.stands == "{}" else re.compile(
        f"{re.escape(fields.stands)}|{_PLACE.pattern}")
    for found in places.finditer(text):
        pieces = _place(found, text, fields, outputs, is_quoted)
        if pieces is not None:
            if found.start() > done:
                word.append(os.fsencode(text[done:found.start()]))
            word += pieces
            done = found.end()
    if done < len(text) or not word:
        word.append(os.fsencode(text[done:]))
    return word


def _place(found: re.Match[str], text: str, fields: Fields, outputs: int, is_quoted: bool,
           ) -> Word | None:
    """What a placeholder stands for; None: it is none."""
    inner = found.group(1)
    if found.group() == fields.stands:
        inner = ""
    elif inner == "" or inner is None:
        return None  # {}, and -I has named another
    if inner == "#":
        return [("number", 0, "", False)]
    if outputs and (number := re.fullmatch(r"output([1-9][0-9]?)?", inner)):
        index = int(number.group(1) or 1) - 1
        if index >= outputs:
            raise UsageError(f"{{{inner}}} is not there: --output is given "
                             f"{'once' if outputs == 1 else f'{outputs} times'}")
        return [("output", index, "", is_quoted)]
    is_variable = found.start() > 0 and text[found.start() - 1] == "$"
    for how in HOWS:
        if not inner.endswith(how):
            continue
        name = inner[:len(inner) - len(how)] if how else inner
        if name == "":
            return _whole(fields, how, is_quoted)
        index = fields.find(name, is_variable)
        if index is not None:
            return [("field", index, how, is_quoted)]
    return None


def _whole(fields: Fields, how: str, is_quoted: bool) -> Word:
    if len(fields.whole()) > 1 and (how or not is_quoted):
        raise UsageError(f"a record has {fields.count} fields: say which, as in {{1{how}}}; only "
                         f"{fields.stands} as a word of its own stands for all of them")
    word: Word = []
    for index in fields.whole():
        word += [b" "] * bool(word) + [("field", index, how, is_quoted)]
    return word


def has_place(words: Iterable[Word]) -> bool:
    return any(isinstance(piece, tuple) and piece[0] in ("field", "number")
               for word in words for piece in word)


def command_words(typed: Sequence[str], fields: Fields, outputs: int = 0) -> list[Word]:
    """The command as it was typed behind the options, without a shell."""
    words: list[Word] = []
    for text in split(typed[0]) if len(typed) == 1 else typed:
        if text == fields.stands:
            words += [[("field", index, "", False)] for index in fields.whole()]
        else:
            words.append(parse(text, fields, outputs))
    if not has_place(words):
        words += [[("field", index, "", False)] for index in fields.whole()]
    if not words or words[0] == [b""]:
        raise UsageError("the command is empty")
    return words


def shell_words(shell: str, typed: Sequence[str], fields: Fields, outputs: int = 0) -> list[Word]:
    """The command for a shell; several words are joined with blanks, as GNU parallel does."""
    script = parse(" ".join(typed), fields, outputs, True)
    if not has_place([script]):
        script += [b" ", *_whole(fields, "", True)]
    return [[os.fsencode(shell)], [b"-c"], script]


def split(text: str) -> list[str]:
    """A command that was typed as one word, into words, by the rules of quoting of a shell. What
    only a shell could do is refused."""
    import shlex
    sign = _shell_sign(text)
    if sign is not None:
        raise UsageError(f"{sign!r} in the command is for a shell: run it in one with --shell, or "
                         f"quote it ('\\{sign}')")
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"the command {text!r} cannot be split into words: "
                         f"{str(error).lower()}") from None


def _shell_sign(text: str) -> str | None:
    """The first character outside of quotes that a shell would not take as it is."""
    quote = ""
    at = 0
    while at < len(text):
        c = text[at]
        if c == "\\" and quote != "'":
            at += 1
        elif quote:
            if c == quote:
                quote = ""
            elif quote == '"' and c in "$`":
                return c
        elif c in "'\"":
            quote = c
        elif c in "|&;<>()$`":
            return c
        at += 1
    return None


# --- to look at ---------------------------------------------------------------------------------


def shell_quoted(value: bytes) -> bytes:
    """For sh."""
    if _SAFE.fullmatch(value):
        return value
    return b"'" + value.replace(b"'", b"'\\''") + b"'"


def shown(words: Iterable[bytes]) -> str:
    """A command line to look at and to copy into bash or zsh."""
    return " ".join(_shown_word(word) for word in words)


def _shown_word(word: bytes) -> str:
    text = word.decode("utf-8", "surrogateescape")
    if text.isprintable():
        return shell_quoted(word).decode()
    made = []
    for c in text:
        if c in "\\'":
            made.append("\\" + c)
        elif c in "\n\t":
            made.append({"\n": "\\n", "\t": "\\t"}[c])
        elif c.isprintable():
            made.append(c)
        else:
            made.append("".join(f"\\x{byte:02x}" for byte in os.fsencode(c)))
    return "$'" + "".join(made) + "'"
