#!/usr/bin/env python3
r"""Draws what a tool printed as a picture. The one in the README:

    cargo demo 2>&1 | sed -n '/^\$ provision-vm/,/ssh .*fleet@/p' | docs/terminal-svg.py > docs/demo.svg

The lines are drawn as they come; only their marks (==>, ✓, ⚠, ✗, hint:) are coloured, as a terminal does it.
"""

import re
import sys
from html import escape

WIDTH = 100  # characters; longer lines are folded
CHARACTER = 8.43
LINE = 18
MARGIN = 16
COLOURS = [
    (r"^\s*(==>)", "#56b6c2"),
    (r"^\s*(✓)", "#98c379"),
    (r"^\s*(⚠)", "#e5c07b"),
    (r"^\s*(✗)", "#e06c75"),
    (r"^\s*(hint:)", "#56b6c2"),
    (r"^(\+.*)$", "#98c379"),
    (r"^(-[^-].*)$", "#e06c75"),
]


def folded(line):
    while len(line) > WIDTH:
        yield line[:WIDTH]
        line = "    " + line[WIDTH:]
    yield line


def coloured(line):
    for pattern, colour in COLOURS:
        found = re.search(pattern, line)
        if found:
            start, end = found.span(1)
            return (
                escape(line[:start], False)
                + f'<tspan fill="{colour}">{escape(line[start:end], False)}</tspan>'
                + escape(line[end:], False)
            )
    return escape(line, False)


def main():
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", sys.stdin.read()).replace("\r", "")
    lines = []
    for line in text.rstrip("\n").split("\n"):
        lines.extend(folded(line.rstrip()))
    width = round(WIDTH * CHARACTER + 2 * MARGIN)
    height = len(lines) * LINE + 2 * MARGIN
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, \'DejaVu Sans Mono\', monospace" font-size="14">'
    )
    print(f'<rect width="{width}" height="{height}" rx="8" fill="#1e2127"/>')
    print('<g fill="#dcdfe4" xml:space="preserve">')
    for number, line in enumerate(lines):
        if line:
            print(f'<text x="{MARGIN}" y="{MARGIN + (number + 1) * LINE - 5}">{coloured(line)}</text>')
    print("</g>\n</svg>")


if __name__ == "__main__":
    main()
