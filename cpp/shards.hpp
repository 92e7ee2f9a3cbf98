// How rows are cut into shards, by n, d and k alone, and how the sums of the shards are added: the reason for the same bits
// with any number of threads.
#pragma once
#include <algorithm>
#include <vector>

#include "aligned.hpp"
#include "tile.hpp"

namespace gdfast {

// A shard is worth a thread's attention from here on. All partial sums together may take this much memory and, where there
// are more shards than a few, this share of what is read for them: to clear and to add them is time too. The
// sums of sparse rows may be far larger than the rows themselves: even a few shards may take only half of the data.
inline constexpr Index shard_bytes = 16 * 1024, partial_bytes = 64 * 1024 * 1024, shards_max = 128, shards_few = 8;
inline constexpr double partial_share = 1.0 / 512, sparse_share = 1.0 / 2;

// bytes: of what is read; sums: bytes of the partial sums of one shard; few: what the sums of a few shards may take; share:
// what those of more may take
inline Index shards_of(Index rows, double bytes, double sums, double few, double share) {
    Index shards = 1;
    while (2 * shards <= shards_max && bytes >= double(2 * shards * shard_bytes) && rows >= 2 * shards * 16 &&
           double(2 * shards) * sums <= (shards < shards_few ? few : share))
        shards *= 2;
    return shards;
}

template <class T>
Index shards_of(const Problem<T>& p, Index rows) {
    const double lanes = double(lanes_of(p)), bytes = double(rows) * row_bytes(p);
    const double few = p.layout == Layout::csr ? std::min(double(partial_bytes), sparse_share * bytes * lanes) : partial_bytes;
    return shards_of(rows, bytes, double(p.d + 1) * lanes * sizeof(double), few, partial_share * bytes * lanes);
}

// Shard s of `rows` rows: whole groups of 16, so that no two shards share a tile's registers.
inline Index shard_start(Index rows, Index shards, Index s) {
    if (s == 0) return 0;
    if (s == shards) return rows;
    const Index groups = (rows + 15) / 16;
    return std::min(rows, groups * s / shards * 16);
}

// w (rows x k) into rows of lanes
template <class T>
void pad(const T* w, Index rows, Index k, Index lanes, T* out) {
    for (Index j = 0; j < rows; ++j) std::copy_n(w + j * k, std::size_t(k), out + j * lanes);
}
template <class T>
Aligned<T> padded(const Problem<T>& p, const T* w) {
    const Index rows = p.d + 1, lanes = lanes_of(p);
    Aligned<T> out(std::size_t(rows * lanes + lanes_behind), T(0));
    pad(w, rows, p.k, lanes, out.data());
    return out;
}

// out[j k + o] = scale times the sum over the shards, in their order, of partial[s][j lanes + o], for first <= j k + o < last
template <class T>
void add_shards(const double* partial, Index shards, Index size, Index k, Index lanes, Index first, Index last, double scale,
                T* out) {
    double sums[256];
    for (Index start = first; start < last; start += 256) {
        const Index count = std::min<Index>(256, last - start);
        for (Index i = 0; i < count; ++i) sums[i] = 0;
        for (Index s = 0; s < shards; ++s) {
            const double* from = partial + s * size;
            if (k == lanes)
                for (Index i = 0; i < count; ++i) sums[i] += from[start + i];
            else if (k == 1)
                for (Index i = 0; i < count; ++i) sums[i] += from[(start + i) * lanes];
            else
                for (Index i = 0; i < count; ++i) sums[i] += from[(start + i) / k * lanes + (start + i) % k];
        }
        for (Index i = 0; i < count; ++i) out[start + i] = T(sums[i] * scale);
    }
}

// the loss of the k outputs from `first` on, over all shards
inline double add_losses(const double* losses, Index shards, Index lanes, Index first, Index k) {
    double sum = 0;
    for (Index s = 0; s < shards; ++s)
        for (Index o = first; o < first + k; ++o) sum += losses[s * lanes + o];
    return sum;
}

template <class T>
std::vector<Tile<T>> tiles_for(const Problem<T>& problem, int threads, Index shards, const Order* order = nullptr,
                               Index gram_stride = 0, bool product = false) {
    std::vector<Tile<T>> tiles;
    const Index count = std::max<Index>(1, std::min<Index>(threads, shards));
    tiles.reserve(std::size_t(count));
    for (Index i = 0; i < count; ++i) tiles.emplace_back(problem, order, gram_stride, product);
    return tiles;
}

}  // namespace gdfast
