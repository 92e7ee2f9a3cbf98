// The order of rows: a keyed permutation of [0, n), a pure function of (n, keys, position). Nothing is stored, any
// position can be asked for by itself, so shuffling is parallel and a run can be resumed anywhere.
// Included by kernels.cpp only.
//
// With blocks of more than one row, rows are read in runs: the rows, seen as a circle that is cut at a place given by the
// keys, are divided into blocks of consecutive rows, which are permuted; what is left over comes last.
//
// A Feistel network on pairs (left, right) of a rectangle a x b >= n as small as can be, walked again in the rare case that
// it leaves [0, n) (Black and Rogaway 2002, "generalised Feistel" and "cycle walking").
#pragma once
#include <cmath>
#include <cstdint>

#include "elementary.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

using Word = std::uint32_t;

struct Feistel {
    Word a, b;
    const Word* keys;  // one a round
    static constexpr int rounds = 6;

    // n <= 2^62, so that both sides fit 32 bits
    Feistel(Index n, const Word* keys) : keys(keys) {
        Index side = Index(std::sqrt(double(n)));
        while (side * side < n) ++side;
        while ((side - 1) * (side - 1) >= n) --side;
        a = Word(side);
        b = Word((n + side - 1) / side);
    }
    // a number below `range`, and all of them about as often
    static Word scramble(Word x, Word key, Word range) {
        x = (x ^ key) * 0x9E3779B1u;
        x = (x ^ (x >> 15)) * 0x85EBCA77u;
        x ^= x >> 13;
        return Word(std::uint64_t(x) * range >> 32);
    }
    static Word add(Word x, Word y, Word range) {  // modulo range
        const Word sum = x + y;
        return sum >= range || sum < x ? sum - range : sum;
    }

    // (left, right) become their image, for a whole block: independent lanes
    static constexpr int block = 64;
    void apply(Word* left, Word* right) const {
        for (int r = 0; r < rounds; r += 2) {
            const Word key = keys[r], other = keys[r + 1];
#pragma omp simd
            for (int i = 0; i < block; ++i) left[i] = add(left[i], scramble(right[i], key, a), a);
#pragma omp simd
            for (int i = 0; i < block; ++i) right[i] = add(right[i], scramble(left[i], other, b), b);
        }
    }
};

// rows[i] = the image of first + i under the permutation of n
inline void permute(Index n, const Word* keys, Index first, Index count, Index* rows) {
    const Feistel permutation(n, keys);
    constexpr int block = Feistel::block;
    const Index b = permutation.b;
    Word left[block], right[block];
    for (Index start = 0; start < count; start += block) {
        const int m = int(count - start < block ? count - start : block);
        Index l = (first + start) / b, r = (first + start) % b;
        const bool one_left = r + block <= b;
        if (one_left) {
#pragma omp simd
            for (int i = 0; i < block; ++i) left[i] = Word(l), right[i] = Word(r) + Word(i);
        }
        for (int i = 0; i < block && !one_left; ++i) {
            left[i] = Word(l), right[i] = Word(r);
            const bool wrap = ++r == b;
            l += wrap, r = wrap ? 0 : r;
            if (l >= permutation.a) l = 0;  // behind the last position: any pair will do
        }
        permutation.apply(left, right);
        Index last = 0;
#pragma omp simd reduction(max : last)
        for (int i = 0; i < m; ++i) {
            rows[start + i] = Index(left[i]) * b + right[i];
            last = max(last, rows[start + i]);
        }
        if (last < n) continue;
        for (int i = 0; i < m; ++i)
            while (rows[start + i] >= n) {  // ends: the walk started inside [0, n) and returns there
                Word one_left[block] = {Word(rows[start + i] / b)}, one_right[block] = {Word(rows[start + i] % b)};
                permutation.apply(one_left, one_right);
                rows[start + i] = Index(one_left[0]) * b + one_right[0];
            }
    }
}

// rows[i] = the row at position first + i of the order of n rows
inline void order_rows(Index n, Order order, Index first, Index count, Index* rows) {
    if (order.block == 1) return permute(n, order.keys, first, count, rows);
    const Index blocks = n / order.block;  // whole ones
    const Index cut = Index((std::uint64_t(order.keys[0]) << 31 ^ order.keys[1]) % std::uint64_t(n));
    Index some[Feistel::block], known = 0, from = -1;  // images of `known` blocks from `from` on
    for (Index i = 0; i < count;) {
        const Index position = first + i, j = position / order.block, within = position % order.block;
        if (j < blocks && (from < 0 || j >= from + known)) {
            from = j;
            known = blocks - j < Feistel::block ? blocks - j : Feistel::block;
            permute(blocks, order.keys, from, known, some);
        }
        const Index run = order.block - within < count - i ? order.block - within : count - i;
        Index row = ((j < blocks ? some[j - from] : blocks) * order.block + within + cut) % n;
        for (Index end = i + run; i < end; ++i) {
            rows[i] = row;
            if (++row == n) row = 0;
        }
    }
}

}  // namespace gdfast::GDFAST_ISA
