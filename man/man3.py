#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the manual pages of section 3 from the public headers, so that both say the same.

    man3.py VERSION DIRECTORY HEADER...

Each header work.h becomes trickle_work.3 (trickle.h: trickle.3, with a list of the others), and
each function in it a page trk_work_add.3 that leads there. What is read is the style of our
headers: a comment before what it is about, or behind it on its line; "/* --- words --- */" begins
a section; in comments, lines that are indented stay as they are, others are filled; a paragraph
of the file's comment that begins with "Threads:" is a section of its own.
"""
import os
import re
import sys
from pathlib import Path

FUNCTION = re.compile(r"\b(trk_\w+)\s*\(")
TOKEN = re.compile(r"/\*.*?\*/|[^/]+|/", re.S)


def escaped(line):
    line = line.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + line if line[:1] in (".", "'") else line


def comment_lines(comment):
    """Of /* ... */, without what makes it a comment."""
    lines = comment.removeprefix("/*").removesuffix("*/").split("\n")
    return [lines[0].strip(), *(re.sub(r"^\s*\*? ?", "", line).rstrip() for line in lines[1:])]


def paragraphs(lines):
    """Lists of lines, split at empty ones."""
    found = [[]]
    for line in lines:
        if line:
            found[-1].append(line)
        elif found[-1]:
            found.append([])
    return [p for p in found if p]


def filled(lines):
    """roff of a comment: what is indented stays."""
    out, is_verbatim = [], False
    for number, paragraph in enumerate(paragraphs(lines)):
        out += [".PP"] if number else []
        for line in paragraph:
            if line.startswith(" ") != is_verbatim:
                is_verbatim = not is_verbatim
                out.append(".nf" if is_verbatim else ".fi")
            out.append(escaped(line))
        if is_verbatim:
            out.append(".fi")
            is_verbatim = False
    return out


def code(text):
    """Declarations as they are, without what only the compiler wants."""
    text = re.sub(r"\b(TRK_API|TRK_MUST_USE) ?", "", text)
    lines = [escaped(line) for line in text.strip("\n").split("\n")]
    return [".PP", ".nf", *(f"\\fB{line}\\fR" for line in lines), ".fi"]


class Item:
    """Some declarations and what is said of them."""

    def __init__(self, comment):
        self.comment = comment
        self.text = ""

    def roff(self):
        out = code(aligned(self.text)) if self.text.strip() else []
        if self.comment:
            said = filled(self.comment)
            out += [".RS 4", *said, ".RE"] if out else [".PP", *said]
        return out


def aligned(text):
    """The later lines of a prototype, moved with its first one when TRK_API goes."""
    out, shift = [], 0
    for line in text.split("\n"):
        if line and not line.startswith(" "):
            shift = sum(len(word) for word in re.findall(r"^TRK_API (?:TRK_MUST_USE )?", line))
        has_room = shift and line.startswith(" " * shift)
        out.append(line[shift:] if has_room and not line.startswith("TRK_API") else line)
    return "\n".join(out)


def items_of(body):
    """Items and, as strings, titles of sections."""
    found, current, depth, is_fresh = [], None, 0, True
    for token in TOKEN.findall(body):
        if token.startswith("/*") and depth == 0 and is_fresh:
            title = re.fullmatch(r"/\*\s*-+\s*(.*?)\s*-+\s*\*?\s*(.*?)\*/", token, re.S)
            if title:
                found.append(title.group(1))
                token = "/* " + title.group(2).strip(" \n") + " */"
                current = Item(comment_lines(token)) if title.group(2).strip() else None
            else:
                current = Item(comment_lines(token))
            if current is not None:
                found.append(current)
            continue
        if token.startswith("/*"):
            current.text += token
            continue
        if current is not None and not current.text:
            token = token.removeprefix("\n")  # the end of the comment's line
        for line in re.split(r"(?<=\n)", token):
            if depth == 0 and is_fresh and not line.strip():
                current = None  # an empty line ends what a comment is about
                continue
            if not line:
                continue
            if current is None:
                current = Item([])
                found.append(current)
            current.text += line
            depth += line.count("{") - line.count("}")
            is_fresh = line.endswith("\n") and not re.search(r"[,(]\s*$", line)
    return found


class Header:
    def __init__(self, path):
        text = path.read_text()
        comments = re.findall(r"/\*.*?\*/", text, re.S)
        lines = comment_lines(comments[1])
        self.file = path.name
        self.name = "trickle" if path.stem == "trickle" else f"trickle_{path.stem}"
        self.summary = lines[0].split(" - ", 1)[1].rstrip(".")
        parts = paragraphs(lines[1:])
        # The first line may run on.
        self.about = [p for p in parts if not p[0].startswith("Threads:")]
        self.threads = [p for p in parts if p[0].startswith("Threads:")]
        if lines[1:] and lines[1]:
            self.summary += " " + " ".join(self.about.pop(0)).rstrip(".")
        begin = text.find('extern "C" {')
        body = text[begin:text.rfind("#ifdef __cplusplus")] if begin >= 0 else ""
        self.body = body.partition("#endif\n")[2]
        self.functions = list(dict.fromkeys(
            name for line in re.findall(r"^TRK_API[^;]*;", self.body, re.M)
            for name in FUNCTION.findall(line)[:1]))

    def page(self, version, others):
        out = [f'.TH {self.name.upper()} 3 "" "trickle {version}" "Trickle"', ".SH NAME",
               ", ".join([self.name, *self.functions]) + f" \\- {escaped(self.summary)}",
               ".SH SYNOPSIS", ".nf", f"\\fB#include <trickle/{self.file}>\\fR", ".PP",
               "\\fBcc program.c $(pkg\\-config \\-\\-cflags \\-\\-libs trickle)\\fR", ".fi",
               ".SH DESCRIPTION"]
        out += filled([line for p in self.about for line in [*p, ""]]) or [
            f"See the functions below; the header is trickle/{self.file}."]
        is_open = False
        for item in items_of(self.body):
            if not is_open:
                out.append(".SH DECLARATIONS")
                is_open = True
            out += [f".SS {escaped(item)}"] if isinstance(item, str) else item.roff()
        if self.threads or self.functions:
            out.append(".SH THREADS")
            out += filled([line.removeprefix("Threads: ") for p in self.threads
                           for line in [*p, ""]])
        see = [other for other in others if other is not self]
        if self.name == "trickle":
            out.append(".SH PAGES")
            for other in see:
                out += [".TP", f".BR {other.name} (3)", escaped(other.summary)]
        out += [".SH SEE ALSO", ",\n".join([*(f".BR {o.name} (3)" for o in see),
                                            ".BR trickle (1)"]).replace(",\n", " ,\n")]
        return "\n".join(out) + "\n"


def main(version, directory, *paths):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    headers = [Header(Path(path)) for path in paths]
    for header in headers:
        (directory / f"{header.name}.3").write_text(header.page(version, headers))
        for name in header.functions:
            (directory / f"{name}.3").write_text(f".so man3/{header.name}.3\n")


if __name__ == "__main__":
    place = os.environ.get("MESON_INSTALL_DESTDIR_PREFIX", "")
    main(sys.argv[1], os.path.join(place, sys.argv[2]), *sys.argv[3:])
