"""The kernels of `fused.py`. Scores are products of two operand tiles, each (rows, channels): nothing else is read.

An argument of None is not wanted: its code is left out when a kernel is compiled. Matrices are `common.Matrix`. `row`
and `column` are the numbers of a tile's rows and columns among all queries (R) or keys (M).
"""

# Triton is untyped, and reads the annotations of a kernel's arguments as types of its own.
# mypy: allow-untyped-defs, disable-error-code="import-untyped"

import triton
import triton.language as tl

from plca_dist.ops.triton.common import at, beats, contrast_scale, first_best, load_softmax, pulled, weights

_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.constexpr_function
def _padded(channels):
    """tl.dot takes powers of two from 16 on."""
    return max(triton.next_power_of_2(channels), 16)


@triton.jit
def _operand(x, PRODUCTS: tl.constexpr):
    if PRODUCTS == "bf16":
        x = x.to(tl.bfloat16)
        if _INTERPRETED:
            x = x.to(tl.float32)  # the interpreter's dot takes bfloat16 for integers
    else:
        x = x.to(tl.float32)
        if PRODUCTS == "tf32":
            x = _tf32(x)
    return x


@triton.jit
def _tf32(x):
    """The nearest number of 10 bits of mantissa, of two the even one. The product alone would cut the bits off."""
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)


@triton.jit
def _load(matrix, row, rows, CHANNELS: tl.constexpr, PRODUCTS: tl.constexpr):
    """Rows of a matrix with all their channels as an operand, 0 outside."""
    channel = tl.arange(0, _padded(CHANNELS))[None, :]
    return _operand(tl.load(at(matrix, row, channel), mask=(row < rows) & (channel < CHANNELS), other=0.0), PRODUCTS)


@triton.jit
def _product(a, b, total, PRODUCTS: tl.constexpr):
    return tl.dot(a, b, total, input_precision="tf32" if PRODUCTS == "tf32" else "ieee")


@triton.jit
def _scores(a, b, ROWS: tl.constexpr, COLUMNS: tl.constexpr, PRODUCTS: tl.constexpr):
    return _product(a, tl.trans(b), tl.zeros([ROWS, COLUMNS], tl.float32), PRODUCTS)


@triton.jit
def forward(
    query, key, value, average, index, softmax, R, M,
    C: tl.constexpr, D: tl.constexpr, CONTRAST: tl.constexpr, PRODUCTS: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    lane = tl.arange(0, COLUMNS)
    q = _load(query, row, R, C, PRODUCTS)
    best = tl.full([ROWS, 1], float("-inf"), tl.float32)
    found = tl.zeros([ROWS, 1], tl.int32)
    count = 0.0
    mean = tl.zeros([ROWS, 1], tl.float32)
    squares = tl.zeros([ROWS, 1], tl.float32)
    for start in range(0, M, COLUMNS):
        score = _scores(q, _load(key, (start + lane)[:, None], M, C, PRODUCTS), ROWS, COLUMNS, PRODUCTS)
        column = (start + lane)[None, :]
        inside = column < M
        best_here, found_here = first_best(tl.where(inside, score, float("-inf")), column, 1)
        better = beats(best_here, best)
        best = tl.where(better, best_here, best)
        if index is not None:
            found = tl.where(better, found_here, found)
        if CONTRAST:  # Chan's merge of the tile's mean and squares with those so far
            count_here = tl.minimum(M - start, COLUMNS).to(tl.float32)
            mean_here = tl.sum(score, 1, keep_dims=True) / count_here
            off = tl.where(inside, score - mean_here, 0.0)
            step = mean_here - mean
            share = count_here / (count + count_here)
            mean += step * share
            squares += tl.sum(off * off, 1, keep_dims=True) + step * (step * (share * count))
            count += count_here
    if index is not None:
        tl.store(index + row, found.to(tl.int64), mask=row < R)
    if softmax is not None:
        scale = tl.full([ROWS, 1], 1.0, tl.float32)
        if CONTRAST:
            scale = contrast_scale(best, squares, M)
        total = tl.zeros([ROWS, 1], tl.float32)
        if value is not None:
            weighted = tl.zeros([ROWS, _padded(D)], tl.float32)
        for start in range(0, M, COLUMNS):
            column = (start + lane)[:, None]
            score = _scores(q, _load(key, column, M, C, PRODUCTS), ROWS, COLUMNS, PRODUCTS)
            odds = tl.where((start + lane)[None, :] < M, tl.exp((score - best) * scale), 0.0)
            total += tl.sum(odds, 1, keep_dims=True)
            if value is not None:
                weighted = _product(_operand(odds, PRODUCTS), _load(value, column, M, D, PRODUCTS), weighted, PRODUCTS)
        tl.store(softmax.best + row, best, mask=row < R)
        tl.store(softmax.scale + row, scale, mask=row < R)
        tl.store(softmax.log_sum + row, tl.log(total), mask=row < R)
        if value is not None:
            channel = tl.arange(0, _padded(D))[None, :]
            tl.store(at(average, row, channel), weighted / total, mask=(row < R) & (channel < D))


@triton.jit
def query_gradient(
    dquery, query, key, value, daverage, softmax, index, gradient, R, M,
    C: tl.constexpr, D: tl.constexpr, PRODUCTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    lane = tl.arange(0, COLUMNS)
    q = _load(query, row, R, C, PRODUCTS)
    best, scale, log_sum = load_softmax(softmax, row, R)
    g = tl.load(gradient + row, mask=row < R, other=0.0)
    if index is not None:
        target = tl.load(index + row, mask=row < R, other=-1)
    else:
        da = _load(daverage, row, R, D, PRODUCTS)
    total = tl.zeros([ROWS, _padded(C)], tl.float32)
    for start in range(0, M, COLUMNS):
        k = _load(key, (start + lane)[:, None], M, C, PRODUCTS)
        score = _scores(q, k, ROWS, COLUMNS, PRODUCTS)
        column = (start + lane)[None, :]
        if index is not None:
            dscore = pulled(score, best, scale, log_sum, target, g, column)
        else:
            v = _load(value, (start + lane)[:, None], M, D, PRODUCTS)
            dweight = _scores(da, v, ROWS, COLUMNS, PRODUCTS)
            dscore = weights(score, best, scale, log_sum) * (dweight - g) * scale
        # Past the last key there is a score of 0, whose weight may be infinite.
        dscore = tl.where(column < M, dscore, 0.0)
        total = _product(_operand(dscore, PRODUCTS), k, total, PRODUCTS)
    channel = tl.arange(0, _padded(C))[None, :]
    tl.store(at(dquery, row, channel), total, mask=(row < R) & (channel < C))


@triton.jit
def key_gradient(
    dkey, dvalue, query, key, value, daverage, softmax, index, gradient, R, M,
    C: tl.constexpr, D: tl.constexpr, PRODUCTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # A tile is transposed: its rows are keys, its columns queries.
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    lane = tl.arange(0, COLUMNS)
    k = _load(key, row, M, C, PRODUCTS)
    total = tl.zeros([ROWS, _padded(C)], tl.float32)
    if index is None:
        v = _load(value, row, M, D, PRODUCTS)
        total_of_value = tl.zeros([ROWS, _padded(D)], tl.float32)
    for start in range(0, R, COLUMNS):
        q = _load(query, (start + lane)[:, None], R, C, PRODUCTS)
        score = _scores(k, q, ROWS, COLUMNS, PRODUCTS)
        column = (start + lane)[None, :]
        best, scale, log_sum = load_softmax(softmax, column, R)
        g = tl.load(gradient + column, mask=column < R, other=0.0)
        if index is not None:
            target = tl.load(index + column, mask=column < R, other=-1)
            dscore = pulled(score, best, scale, log_sum, target, g, row)
        else:
            da = _load(daverage, (start + lane)[:, None], R, D, PRODUCTS)
            weight = weights(score, best, scale, log_sum)
            dscore = weight * (_scores(v, da, ROWS, COLUMNS, PRODUCTS) - g) * scale
            total_of_value = _product(_operand(weight, PRODUCTS), da, total_of_value, PRODUCTS)
        total = _product(_operand(dscore, PRODUCTS), q, total, PRODUCTS)
    channel = tl.arange(0, _padded(C))[None, :]
    tl.store(at(dkey, row, channel), total, mask=(row < M) & (channel < C))
    if index is None:
        channel = tl.arange(0, _padded(D))[None, :]
        tl.store(at(dvalue, row, channel), total_of_value, mask=(row < M) & (channel < D))
