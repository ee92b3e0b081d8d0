"""Asks about a picture: python examples/pictures/ask.py PICTURE QUESTION."""

import sys

import aot

picture, question = sys.argv[1:]
with aot.load("dist/pictures") as model:
    result = model.generate(question, images=[picture])
    print(result.text.strip())
