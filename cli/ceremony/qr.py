"""QR codes for fingerprints (ISO/IEC 18004): byte mode, error correction M, versions 1 to 6."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Final, TypeAlias

Matrix: TypeAlias = list[list[bool]]
"""Rows of modules; True is dark."""

LONGEST: Final = 106
"""Octets that fit into version 6."""

_VERSIONS: Final = ((16, 10, 1), (28, 16, 1), (44, 26, 1), (64, 18, 2), (86, 24, 2), (108, 16, 4))
"""For each version: data codewords, those of error correction in a block, blocks (table 9)."""

_MASK_0: Final = 0x5412
"""Format information (§7.9): level M, mask 0, both 0, so that only its XOR pattern is left. A mask
that breaks up large areas is enough for reading; the standard's search for the best is left out."""


def qr_code(content: bytes) -> Matrix:
    """The symbol of at most 106 octets, without its quiet zone of four modules."""
    version = next(
        number for number, (room, _, _) in enumerate(_VERSIONS, 1) if len(content) + 2 <= room
    )
    size = 17 + 4 * version
    matrix: list[list[bool | None]] = [[None] * size for _ in range(size)]
    _functions(matrix, version)
    bits = _bits(_codewords(content, version))
    for row, column in _zigzag(size):
        if matrix[row][column] is None:
            matrix[row][column] = next(bits, False) ^ ((row + column) % 2 == 0)
    return [[bool(module) for module in line] for line in matrix]


def qr_svg(content: bytes, size: str) -> str:
    """The symbol with its quiet zone as SVG; ``size``: of a side, as CSS writes it."""
    matrix = qr_code(content)
    side = len(matrix) + 8
    dark = "".join(
        f"M{column + 4} {row + 4}h1v1h-1z"
        for row, line in enumerate(matrix)
        for column, module in enumerate(line)
        if module
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" width="{size}" '
        f'height="{size}" shape-rendering="crispEdges">'
        f'<path fill="#fff" d="M0 0h{side}v{side}H0z"/><path d="{dark}"/></svg>'
    )


def _functions(matrix: list[list[bool | None]], version: int) -> None:
    """What stands in every symbol of this version (§6.3) and the format information."""
    size = len(matrix)
    for top, left in ((0, 0), (0, size - 7), (size - 7, 0)):
        for row in range(max(top - 1, 0), min(top + 8, size)):
            for column in range(max(left - 1, 0), min(left + 8, size)):
                ring = max(abs(row - top - 3), abs(column - left - 3))
                matrix[row][column] = ring not in (2, 4)
    if version > 1:
        centre = size - 7
        for row in range(centre - 2, centre + 3):
            for column in range(centre - 2, centre + 3):
                matrix[row][column] = max(abs(row - centre), abs(column - centre)) != 1
    for at in range(8, size - 8):
        matrix[6][at] = matrix[at][6] = at % 2 == 0
    for place in range(15):  # twice, around the finders (§7.9.1)
        bit = bool(_MASK_0 >> place & 1)
        row = place if place < 6 else place + 1 if place < 8 else size - 15 + place
        column = size - 1 - place if place < 8 else 7 if place == 8 else 14 - place
        matrix[row][8] = matrix[8][column] = bit
    matrix[size - 8][8] = True


def _codewords(content: bytes, version: int) -> bytes:
    """Data and error correction, interleaved (§7.4 to §7.6)."""
    room, correction, blocks = _VERSIONS[version - 1]
    # Mode indicator 0100, length in eight bits, the octets, and a terminator of four zeros.
    number = (4 << 8 | len(content)) << 8 * len(content) | int.from_bytes(content, "big")
    data = (number << 4).to_bytes(len(content) + 2, "big")
    data += bytes((0xEC, 0x11)[place % 2] for place in range(room - len(data)))
    each = room // blocks
    parts = [data[at : at + each] for at in range(0, room, each)]
    checks = [_remainder(part, correction) for part in parts]
    return bytes(octet for group in (parts, checks) for row in zip_longest(*group) for octet in row)


def _remainder(data: bytes, count: int) -> bytes:
    """Reed-Solomon over GF(256) modulo x⁸ + x⁴ + x³ + x² + 1."""
    generator = [1]
    root = 1
    for _ in range(count):
        shifted = [*generator, 0]
        for place, coefficient in enumerate(generator):
            shifted[place + 1] ^= _multiply(coefficient, root)
        generator, root = shifted, _multiply(root, 2)
    remainder = [*data, *bytes(count)]
    for at in range(len(data)):
        factor = remainder[at]
        for place, coefficient in enumerate(generator):
            remainder[at + place] ^= _multiply(coefficient, factor)
    return bytes(remainder[len(data) :])


def _multiply(left: int, right: int) -> int:
    product = 0
    while right:
        if right & 1:
            product ^= left
        left = left << 1 ^ (0x11D if left & 0x80 else 0)
        right >>= 1
    return product


def _bits(codewords: bytes) -> Iterator[bool]:
    for octet in codewords:
        for place in range(7, -1, -1):
            yield bool(octet >> place & 1)


def _zigzag(size: int) -> Iterator[tuple[int, int]]:
    """Where bits go: two columns at a time from the right, upwards and downwards by turns."""
    upwards = True
    for right in range(size - 1, 0, -2):
        edge = right if right > 6 else right - 1  # past the timing pattern
        for row in range(size - 1, -1, -1) if upwards else range(size):
            yield row, edge
            yield row, edge - 1
        upwards = not upwards
