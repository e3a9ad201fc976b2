"""Text to BGZF blocks by Huffman codes alone, compiled.

zlib has the same strategy, but takes the interpreter's lock three times a block, which leaves
threads waiting for each other; here a whole batch is packed without it, at twice the rate.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_dask.kernels.compiled import compiled

MAX_BLOCK = 65_536  # bytes of a packed block, at most
_END_OF_BLOCK = 256
_N_SYMBOLS = 257
_MAX_BITS = 15
# Lengths of the codes for 16, 17 and 18 (repeats) come first, then those for 0 to 15.
_N_LENGTH_CODES = 19

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def pack(text: Bytes, *, block_bytes: int, header: Bytes) -> tuple[Bytes, Ints]:
    """Pack a text block by block.

    Parameters
    ----------
    text : (n,) uint8
        The text.
    block_bytes : int
        Bytes of text a block, at most 65,280, so that it fits packed whatever it holds.
    header : (16,) uint8
        What stands in each block before its length.

    Returns
    -------
    blocks : (n_blocks, 65536) uint8
        A block a row, from its start.
    lengths : (n_blocks,) int64
        Their lengths in bytes; 0 for a block with so many ``NaN`` that repeats are worth looking
        for: it is not packed.
    """
    n_blocks = -(-len(text) // block_bytes)
    blocks = np.empty((n_blocks, MAX_BLOCK), np.uint8)
    lengths = np.zeros(n_blocks, np.int64)
    _pack(text, block_bytes, blocks, lengths, header, _CRC)
    return blocks, lengths


def _crc_tables() -> Ints:
    """Tables of the reversed polynomial 0xedb88320, for eight bytes at a time."""
    tables = np.zeros((8, 256), np.int64)
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0xEDB88320 if crc & 1 else 0)
        tables[0, byte] = crc
    for i in range(1, 8):
        tables[i] = (tables[i - 1] >> 8) ^ tables[0][tables[i - 1] & 255]
    return tables


_CRC = _crc_tables()


@compiled()
def _crc32(text: Any, tables: Any) -> Any:
    crc = 0xFFFFFFFF
    whole = len(text) // 8 * 8
    for i in range(0, whole, 8):
        low = crc ^ (
            np.int64(text[i])
            | np.int64(text[i + 1]) << 8
            | np.int64(text[i + 2]) << 16
            | np.int64(text[i + 3]) << 24
        )
        crc = (
            tables[7, low & 255]
            ^ tables[6, (low >> 8) & 255]
            ^ tables[5, (low >> 16) & 255]
            ^ tables[4, low >> 24]
            ^ tables[3, text[i + 4]]
            ^ tables[2, text[i + 5]]
            ^ tables[1, text[i + 6]]
            ^ tables[0, text[i + 7]]
        )
    for i in range(whole, len(text)):
        crc = (crc >> 8) ^ tables[0, (crc ^ text[i]) & 255]
    return crc ^ 0xFFFFFFFF


@compiled()
def _code_lengths(counts: Any, lengths: Any) -> None:
    """Fill in the Huffman code length of each symbol, at most 15; counts are used up."""
    symbols = np.empty(_N_SYMBOLS, np.int64)
    weights = np.empty(2 * _N_SYMBOLS, np.int64)
    parents = np.empty(2 * _N_SYMBOLS, np.int64)
    depths = np.empty(2 * _N_SYMBOLS, np.int64)
    while True:
        n = 0
        for symbol in range(_N_SYMBOLS):
            if counts[symbol] > 0:
                at = n
                while at > 0 and counts[symbols[at - 1]] > counts[symbol]:
                    symbols[at] = symbols[at - 1]
                    at -= 1
                symbols[at] = symbol
                n += 1
        for i in range(n):
            weights[i] = counts[symbols[i]]
        # Leaves ascend, and so do the nodes made of them: the least two are at the fronts.
        leaf, node = 0, n
        for new in range(n, 2 * n - 1):
            weights[new] = 0
            for _ in range(2):
                if leaf < n and (node >= new or weights[leaf] <= weights[node]):
                    least, leaf = leaf, leaf + 1
                else:
                    least, node = node, node + 1
                weights[new] += weights[least]
                parents[least] = new
        depths[2 * n - 2] = 0
        deepest = 0
        for i in range(2 * n - 3, -1, -1):
            depths[i] = depths[parents[i]] + 1
            deepest = max(deepest, depths[i])
        if deepest <= _MAX_BITS:
            break
        # Evener weights, a shallower tree.
        for symbol in range(_N_SYMBOLS):
            counts[symbol] = (counts[symbol] + 1) // 2
    lengths[:] = 0
    for i in range(n):
        lengths[symbols[i]] = depths[i]


@compiled()
def _codes(lengths: Any, codes: Any) -> None:
    """Fill in the canonical codes, lowest bit first."""
    code = 0
    for bits in range(1, _MAX_BITS + 1):
        for symbol in range(len(lengths)):
            if lengths[symbol] == bits:
                turned = 0
                for i in range(bits):
                    turned |= ((code >> i) & 1) << (bits - 1 - i)
                codes[symbol] = turned
                code += 1
        code <<= 1


@compiled()
def _deflate(text: Any, words: Any) -> Any:
    """Write one deflate block of literals in 32-bit words; return its length in bytes."""
    counts = np.zeros(_N_SYMBOLS, np.int64)
    for byte in text:
        counts[byte] += 1
    counts[_END_OF_BLOCK] = 1
    lengths = np.zeros(_N_SYMBOLS, np.int64)
    codes = np.zeros(_N_SYMBOLS, np.int64)
    _code_lengths(counts, lengths)
    _codes(lengths, codes)

    # Last block, dynamic codes; 257 literals, 2 distances (not used), 19 code lengths.
    hold = 1 | 2 << 1 | 0 << 3 | 1 << 8 | (_N_LENGTH_CODES - 4) << 13
    n_bits, at = 17, 0
    for i in range(_N_LENGTH_CODES):
        # The first three are repeats, not used; each length 0 to 15 has a code of four bits.
        hold |= (4 if i >= 3 else 0) << n_bits
        n_bits += 3
        if n_bits >= 32:
            words[at] = hold & 0xFFFFFFFF
            hold, n_bits, at = hold >> 32, n_bits - 32, at + 1
    for i in range(_N_SYMBOLS + 2):
        length = lengths[i] if i < _N_SYMBOLS else 1
        turned = (length & 1) << 3 | (length & 2) << 1 | (length & 4) >> 1 | length >> 3
        hold |= turned << n_bits
        n_bits += 4
        if n_bits >= 32:
            words[at] = hold & 0xFFFFFFFF
            hold, n_bits, at = hold >> 32, n_bits - 32, at + 1

    for byte in text:
        hold |= codes[byte] << n_bits
        n_bits += lengths[byte]
        if n_bits >= 32:
            words[at] = hold & 0xFFFFFFFF
            hold, n_bits, at = hold >> 32, n_bits - 32, at + 1
    hold |= codes[_END_OF_BLOCK] << n_bits
    n_bits += lengths[_END_OF_BLOCK]
    words[at] = hold & 0xFFFFFFFF
    words[at + 1] = hold >> 32
    return 4 * at + (n_bits + 7) // 8


@compiled()
def _is_sparse(text: Any) -> Any:
    """Whether an eighth of the text is NaN."""
    found = 0
    for i in range(len(text) - 2):
        found += (text[i] == 78) & (text[i + 1] == 97) & (text[i + 2] == 78)
    return found * 24 > len(text)


@compiled()
def _pack(text: Any, block_bytes: Any, blocks: Any, lengths: Any, header: Any, tables: Any) -> None:
    words = np.empty(MAX_BLOCK // 4 + 2, np.uint32)
    body = words.view(np.uint8)
    for row in range(len(blocks)):
        piece = text[row * block_bytes : (row + 1) * block_bytes]
        if _is_sparse(piece):
            continue
        size = _deflate(piece, words)
        block = blocks[row]
        start = len(header) + 2
        total = start + size + 8
        block[: len(header)] = header
        block[start : start + size] = body[:size]
        crc = _crc32(piece, tables)
        block[start - 2] = (total - 1) & 255
        block[start - 1] = (total - 1) >> 8
        for i in range(4):
            block[total - 8 + i] = (crc >> 8 * i) & 255
            block[total - 4 + i] = (len(piece) >> 8 * i) & 255
        lengths[row] = total
