// The order of rows: a keyed permutation of [0, n), a pure function of (n, keys, position). Nothing is stored, any
// position can be asked for by itself, so shuffling is parallel and a run can be resumed anywhere.
// Included by kernels.cpp only.
//
// A Feistel network over the smallest power of two >= n, walked again while it leaves [0, n) (Black and Rogaway 2002).
#pragma once
#include <cstdint>

#include "views.hpp"

namespace gdfast::GDFAST_ISA {

struct Feistel {
    int left_bits, right_bits;
    std::uint32_t left_mask, right_mask;
    const std::uint32_t* keys;  // one a round
    static constexpr int rounds = 6;

    Feistel(Index n, const std::uint32_t* keys) : keys(keys) {
        int bits = 1;
        while (bits < 62 && (Index(1) << bits) < n) ++bits;
        left_bits = bits / 2;
        right_bits = bits - left_bits;
        left_mask = (std::uint32_t(1) << left_bits) - 1;
        right_mask = (std::uint32_t(1) << right_bits) - 1;
    }
    static std::uint32_t mix(std::uint32_t x, std::uint32_t key) {
        x = (x ^ key) * 0x9E3779B1u;
        x = (x ^ (x >> 15)) * 0x85EBCA77u;
        return x ^ (x >> 13);
    }
    Index operator()(Index position) const {
        std::uint32_t left = std::uint32_t(position >> right_bits), right = std::uint32_t(position) & right_mask;
        for (int r = 0; r < rounds; r += 2) {
            left ^= mix(right, keys[r]) & left_mask;
            right ^= mix(left, keys[r + 1]) & right_mask;
        }
        return Index(left) << right_bits | Index(right);
    }
};

// rows[i] = the row at position first + i of the order of n rows
inline void order_rows(Index n, const std::uint32_t* keys, Index first, Index count, Index* rows) {
    const Feistel permutation(n, keys);
#pragma omp simd
    for (Index i = 0; i < count; ++i) rows[i] = permutation(first + i);
    for (Index i = 0; i < count; ++i)
        while (rows[i] >= n) rows[i] = permutation(rows[i]);
}

}  // namespace gdfast::GDFAST_ISA
