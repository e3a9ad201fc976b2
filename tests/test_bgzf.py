import gzip
import io
import zlib

import numpy as np
import pytest

from hlmm_dask import bgzf


def texts():
    rng = np.random.default_rng(2)
    numbers = "\t".join(map(repr, rng.normal(size=12_000).tolist())).encode()
    # A code of more than 15 bits, were it not limited: frequencies as Fibonacci's numbers.
    steep = np.repeat(np.arange(22), [int(1.618034**k) for k in range(22)]).astype(np.uint8)
    return {
        "empty": b"",
        "byte": b"x",
        "one block": numbers[: bgzf.BLOCK_BYTES],
        "one more": numbers[: bgzf.BLOCK_BYTES + 1],
        "numbers": numbers,
        "same": bytes(100_000),
        "noise": rng.bytes(150_000),
        "steep": rng.permutation(steep).tobytes(),
        "NaN": b"NaN\t" * 20_000,
        "mixed": numbers[:100_000] + b"rs1\tNaN\tNaN\tNaN\n" * 10_000 + numbers,
    }


@pytest.mark.parametrize("name", texts())
def test_blocks_are_whole_gzip_members_that_name_their_length(name):
    text = texts()[name]
    packed = bgzf.compress(text)
    assert packed == bgzf.compress(memoryview(text))
    assert gzip.decompress(packed + bgzf.END) == text
    found = list(bgzf.blocks(io.BytesIO(packed + bgzf.END)))
    assert b"".join(found) == packed + bgzf.END
    assert found[-1] == bgzf.END
    for block in found:
        assert block[:4] == b"\x1f\x8b\x08\x04"
        assert block[12:16] == b"BC\x02\x00"
        assert int.from_bytes(block[16:18], "little") == len(block) - 1 < 65_536
        piece = zlib.decompress(block, 31)
        assert len(piece) <= bgzf.BLOCK_BYTES
        assert int.from_bytes(block[-8:-4], "little") == zlib.crc32(piece)
    assert len(found) == -(-len(text) // bgzf.BLOCK_BYTES) + 1


def test_digits_and_missing_values_are_packed_well():
    cases = texts()
    assert len(bgzf.compress(cases["numbers"])) < 0.5 * len(cases["numbers"])
    assert len(bgzf.compress(cases["NaN"])) < 0.02 * len(cases["NaN"])


def test_other_files_are_told_from_blocks(tmp_path):
    path = tmp_path / "file"
    packed = bgzf.compress(b"abc" * 1000)
    for content, is_blocks, is_whole in (
        (packed + bgzf.END, True, True),
        (packed, True, False),
        (packed[:-1], False, False),
        (b"", False, False),
        (b"SNP\tn\n", False, False),
        (gzip.compress(b"abc"), False, False),
        (packed[:12] + b"XY\x02\x00" + packed[16:], False, False),
    ):
        path.write_bytes(content)
        assert bgzf.is_bgzf(path) == is_blocks
        assert bgzf.has_end(path) == is_whole
    with pytest.raises(ValueError, match="not a BGZF block"):
        list(bgzf.blocks(io.BytesIO(packed + gzip.compress(b"abc"))))


def test_blocks_with_a_further_field_are_found():
    block = bgzf.compress(b"abc")
    length = len(block) + 6 - 1
    more = block[:10] + b"\x0c\x00" + b"XY\x02\x00zz" + b"BC\x02\x00" + length.to_bytes(2, "little")
    assert next(bgzf.blocks(io.BytesIO(more + block[18:] + bgzf.END))) == more + block[18:]
    assert gzip.decompress(more + block[18:]) == b"abc"
