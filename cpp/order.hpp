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
    // x[i] becomes its image, for a whole block: independent lanes, 32 bits wide
    static constexpr int block = 64;
    void apply(Index* x) const {
        std::uint32_t left[block], right[block];
        for (int i = 0; i < block; ++i)
            left[i] = std::uint32_t(x[i] >> right_bits), right[i] = std::uint32_t(x[i]) & right_mask;
        for (int r = 0; r < rounds; r += 2) {
#pragma omp simd
            for (int i = 0; i < block; ++i) {
                left[i] ^= mix(right[i], keys[r]) & left_mask;
                right[i] ^= mix(left[i], keys[r + 1]) & right_mask;
            }
        }
        for (int i = 0; i < block; ++i) x[i] = Index(left[i]) << right_bits | Index(right[i]);
    }
};

// rows[i] = the row at position first + i of the order of n rows
inline void order_rows(Index n, const std::uint32_t* keys, Index first, Index count, Index* rows) {
    const Feistel permutation(n, keys);
    constexpr int block = Feistel::block;
    for (Index start = 0; start < count; start += block) {
        const int m = int(count - start < block ? count - start : block);
        Index x[block], place[block];
        for (int i = 0; i < block; ++i) x[i] = i < m ? first + start + i : 0, place[i] = start + i;
        // every walk ends: it started inside [0, n), and its orbit returns there
        for (int walking = m; walking > 0;) {
            permutation.apply(x);
            int left_over = 0;
            for (int i = 0; i < walking; ++i) {
                rows[place[i]] = x[i];
                x[left_over] = x[i];
                place[left_over] = place[i];
                left_over += x[i] >= n;
            }
            walking = left_over;
        }
    }
}

}  // namespace gdfast::GDFAST_ISA
