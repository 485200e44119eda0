"""The seven classes that every parsing of this package uses, and the label sets they come from.

A parsing is an array of class ids, uint8. Files carry the ids of the data set they come from;
the ids of different sets overlap, so the set is named (`meta.json`, an option) and never guessed.
"""

from typing import Final

BACKGROUND: Final = 0
HAIR: Final = 1
FACE: Final = 2
SKIN: Final = 3
GARMENT: Final = 4
LOWER: Final = 5
LEGS: Final = 6

#: Names of the classes in the order of their ids, as the bundle's manifest lists them.
CLASSES: Final = ("background", "hair", "face", "skin", "garment", "lower", "legs")
