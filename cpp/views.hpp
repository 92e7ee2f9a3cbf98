// Views of memory that somebody else owns. Strides and counts are in elements and 64 bits wide: n * d passes 2^31.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gdfast {

using Index = std::int64_t;

// Row i starts at x + i * stride and is contiguous; the stride may be any number, negative and zero included.
template <class T>
struct DenseRows {
    const T* x;
    Index stride;
    Index d;
};

// Column j starts at columns[j] and is contiguous.
template <class T>
struct DenseColumns {
    const T* const* columns;
    Index d;
};

// A shuffled order of rows: six keys, and how many consecutive rows stay together (see order.hpp).
struct Order {
    const std::uint32_t* keys;
    Index block;
};

// Which rows of a matrix a tile is made of: index[first + i], or first + i where there is no index.
struct Selection {
    const Index* index;
    Index first;
    Index operator[](Index i) const { return index ? index[first + i] : first + i; }
};

}  // namespace gdfast
