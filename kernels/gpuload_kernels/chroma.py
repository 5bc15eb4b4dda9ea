"""Device functions that read U and V at luma positions, interpolated. Compiled into the kernel of convert.py.

Two neighbouring columns of one component lie in the two lanes of one integer, a *word*: arithmetic on it is exact for
both, and takes half the instructions, which limit the conversion of 8-bit pictures. A lane has room for 16 times a
code: 16 bits for codes of up to 12, else 32. Of NV12, for four luma columns::

    stored       U0 V0 U1 V1 | U2 V2 …     one load of two chroma columns, and one of the next two
    words of U   here U1:U0, right U2:U1   (left U0:U-1 where chroma lies between luma columns); likewise of V
    at rows      3 * near + above …        of three such rows, for the even and for the odd luma row
    at columns   4 * here, 2 * (here + right)
    luma         0: low of the first, 1: low of the second, 2: high of the first, 3: high of the second
"""

# ruff: noqa: N803, N806  (compile-time constants are upper case in Triton)
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call"

import triton
import triton.language as tl

from gpuload_kernels.samples import row_pointers, samples


@triton.jit
def chroma(planes, pairs, columns, first, picture_size, SOURCE: tl.constexpr, ALIGNED: tl.constexpr):
    """U and V interpolated bilinearly at luma positions, edges clamped: of rows ``2 * pairs``, then of the rows below
    them, two float32 ``[P, K]``.

    They are codes times 4 for each axis that is subsampled. ALIGNED: addresses and strides of the planes are multiples
    of 16, and chroma columns, if subsampled, are even in number.
    """
    _, _, chroma_height, _ = picture_size
    last = chroma_height - 1
    if SOURCE.layout.chroma_height_shift == 0:
        even_u, even_v = _row(planes, tl.minimum(2 * pairs, last), columns, first, picture_size, SOURCE, ALIGNED)
        odd_u, odd_v = _row(planes, tl.minimum(2 * pairs + 1, last), columns, first, picture_size, SOURCE, ALIGNED)
    else:
        row = tl.minimum(pairs, last)
        near_u, near_v = _row(planes, row, columns, first, picture_size, SOURCE, ALIGNED)
        above_u, above_v = near_u, near_v
        below_u, below_v = near_u, near_v
        if SOURCE.chroma_y != 0:
            above_u, above_v = _row(planes, tl.maximum(row - 1, 0), columns, first, picture_size, SOURCE, ALIGNED)
        if SOURCE.chroma_y != 2:
            below_u, below_v = _row(planes, tl.minimum(pairs + 1, last), columns, first, picture_size, SOURCE, ALIGNED)
        even_u, odd_u = _at_rows(near_u, above_u, below_u, SOURCE)
        even_v, odd_v = _at_rows(near_v, above_v, below_v, SOURCE)
    even = _at_columns(even_u, SOURCE), _at_columns(even_v, SOURCE)
    odd = _at_columns(odd_u, SOURCE), _at_columns(odd_v, SOURCE)
    return even, odd


@triton.jit
def _row(planes, row, columns, first, picture_size, SOURCE: tl.constexpr, ALIGNED: tl.constexpr):
    """U and V of chroma rows ``[P, 1]``, each as three words: of the columns, one to the right and one to the left.

    Where columns are not subsampled there are no words, but the codes of each column; nobody looks at the other two.
    """
    _, width, _, chroma_width = picture_size
    if SOURCE.layout.chroma_width_shift == 0:
        inside = columns < width
        u = samples(planes, row, columns, inside, SOURCE, 1, ALIGNED).to(tl.uint32) >> SOURCE.layout.shift
        v = samples(planes, row, columns, inside, SOURCE, 2, ALIGNED).to(tl.uint32) >> SOURCE.layout.shift
        u_words, v_words = (u, u, u), (v, v, v)
    else:
        word = first // 4 + tl.arange(0, columns.shape[1] // 4)[None, :]
        here, right, left = _around(planes, row, word, chroma_width, SOURCE, 1, ALIGNED)
        u_words = _lanes(here, SOURCE, 1), _lanes(right, SOURCE, 1), _lanes(left, SOURCE, 1)
        if not SOURCE.layout.interleaved:
            here, right, left = _around(planes, row, word, chroma_width, SOURCE, 2, ALIGNED)
        v_words = _lanes(here, SOURCE, 2), _lanes(right, SOURCE, 2), _lanes(left, SOURCE, 2)
    return u_words, v_words


@triton.jit
def _around(
    planes, row, word, chroma_width, SOURCE: tl.constexpr, COMPONENT: tl.constexpr, ALIGNED: tl.constexpr
):  # fmt: skip
    """Chroma columns ``2 * word`` and the next as they are stored in a plane, with both components if interleaved, the
    first lowest; the same one column to the right, and one to the left. Edges are repeated."""
    PLANE: tl.constexpr = SOURCE.layout.components[COMPONENT].plane
    BITS: tl.constexpr = 8 * SOURCE.layout.sample_bytes * SOURCE.layout.components[COMPONENT].step  # of one column
    COLUMN: tl.constexpr = tl.uint8 if BITS == 8 else tl.uint16 if BITS == 16 else tl.uint32
    TWO: tl.constexpr = tl.uint16 if BITS == 8 else tl.uint32 if BITS == 16 else tl.uint64
    STORED: tl.constexpr = tl.uint64 if BITS == 32 else tl.uint32
    if ALIGNED:
        word_ptr = row_pointers(planes, row, PLANE, TWO, True) + word
        inside = word < chroma_width // 2
        here = tl.load(word_ptr, mask=inside, other=0).to(STORED)
        is_next = word < chroma_width // 2 - 1  # edges by selection: a clamped column would take an address of its own
        after = tl.load(word_ptr + 1, mask=is_next, other=0).to(STORED)
        after = tl.where(is_next, after, here >> BITS)
        before = here
        if SOURCE.chroma_x != 0:
            is_previous = (word > 0) & inside
            before = tl.load(word_ptr - 1, mask=is_previous, other=0).to(STORED) >> BITS
            before = tl.where(is_previous, before, here & ((1 << BITS) - 1))
    else:
        column_ptr = row_pointers(planes, row, PLANE, COLUMN, False)
        last = chroma_width - 1
        low = tl.load(column_ptr + tl.minimum(2 * word, last)).to(STORED)
        high = tl.load(column_ptr + tl.minimum(2 * word + 1, last)).to(STORED)
        here = low | (high << BITS)
        after = tl.load(column_ptr + tl.minimum(2 * word + 2, last)).to(STORED)
        before = here
        if SOURCE.chroma_x != 0:
            before = tl.load(column_ptr + tl.minimum(tl.maximum(2 * word - 1, 0), last)).to(STORED)
    return here, (here >> BITS) | (after << BITS), before | (here << BITS)


@triton.jit
def _lanes(stored, SOURCE: tl.constexpr, COMPONENT: tl.constexpr):
    """The word of one component."""
    SAMPLE_BITS: tl.constexpr = 8 * SOURCE.layout.sample_bytes
    BEGIN: tl.constexpr = SAMPLE_BITS * SOURCE.layout.components[COMPONENT].offset + SOURCE.layout.shift
    END: tl.constexpr = BEGIN + SAMPLE_BITS * SOURCE.layout.components[COMPONENT].step
    CODES: tl.constexpr = (1 << SOURCE.layout.bits) - 1
    WORD: tl.constexpr = tl.uint32 if SOURCE.layout.chroma_lane == 16 else tl.uint64
    low, high = (stored >> BEGIN) & CODES, (stored >> END) & CODES
    return low.to(WORD) | (high.to(WORD) << SOURCE.layout.chroma_lane)


@triton.jit
def _at_rows(near, above, below, SOURCE: tl.constexpr):
    """Three words each of a chroma row and its neighbours -> those at its even and at its odd luma row, times 4."""
    even = (
        _even(near[0], above[0], SOURCE),
        _even(near[1], above[1], SOURCE),
        _even(near[2], above[2], SOURCE),
    )
    odd = (
        _odd(near[0], below[0], SOURCE),
        _odd(near[1], below[1], SOURCE),
        _odd(near[2], below[2], SOURCE),
    )
    return even, odd


@triton.jit
def _even(near, above, SOURCE: tl.constexpr):
    if SOURCE.chroma_y == 0:  # the even row lies on the chroma row, the odd one midway
        word = near * 4
    elif SOURCE.chroma_y == 1:  # both lie a quarter of the spacing away
        word = near * 3 + above
    else:  # the odd one lies on it
        word = (near + above) * 2
    return word


@triton.jit
def _odd(near, below, SOURCE: tl.constexpr):
    if SOURCE.chroma_y == 0:
        word = (near + below) * 2
    elif SOURCE.chroma_y == 1:
        word = near * 3 + below
    else:
        word = near * 4
    return word


@triton.jit
def _at_columns(words, SOURCE: tl.constexpr):
    """Three words -> float32 at four luma columns each, times 4; codes that are no words stay."""
    here, right, left = words
    if SOURCE.layout.chroma_width_shift == 0:
        values = here.to(tl.float32)
    else:
        if SOURCE.chroma_x == 0:  # an even column lies on a sample, an odd one midway
            even, odd = here * 4, (here + right) * 2
        else:  # both lie a quarter of the spacing away from the nearest sample
            even, odd = here * 3 + left, here * 3 + right
        LANE: tl.constexpr = SOURCE.layout.chroma_lane
        LOW: tl.constexpr = (1 << LANE) - 1
        even = tl.interleave((even & LOW).to(tl.float32), (even >> LANE).to(tl.float32))
        odd = tl.interleave((odd & LOW).to(tl.float32), (odd >> LANE).to(tl.float32))
        values = tl.interleave(even, odd)
    return values
