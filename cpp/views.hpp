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

// DenseRows of numbers that take two bytes or one: x * scale_j + offset_j, d of these each; null for x itself. The stride
// counts stored numbers.
enum class Stored { float16, bfloat16, int8, uint8 };
template <class T>
struct QuantizedRows {
    const void* x;
    Stored stored;
    Index stride;
    Index d;
    const T* scale;
    const T* offset;
};

// Column j starts at columns[j] and is contiguous.
template <class T>
struct DenseColumns {
    const T* const* columns;
    Index d;
};

// Row i holds x[p] in column indices[p] for indptr[i] <= p < indptr[i + 1], and zeros; its columns increase. indices and
// indptr are both int32, or int64 where `wide`.
template <class T>
struct CsrRows {
    const T* x;
    const void* indices;
    const void* indptr;
    bool wide;
    Index d;
};

// Columns are seen as (x_j - offset_j) * factor_j, d numbers each; null for columns as they are.
template <class T>
struct Scaling {
    const T* offset = nullptr;
    const T* factor = nullptr;
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

// What is read after a tile: counted from its first row, or place in the index, come those before `last`, then, where rows lie
// one after the other, those from `then` on, or
// none where it is nothing_then.
inline constexpr Index nothing_then = INT64_MIN;
struct Upcoming {
    Index last, then;
};

// What m rows learn. shared: y holds one number a row, for every output; codes: output o learns whether it is o; values: y is
// m x lanes. weight (m) may be null. Where fold (m) is not, an output sees no row of the fold that held_out names for it.
// held_out is followed by as many numbers as a register holds.
enum class TargetForm { shared, codes, values };
template <class T>
struct Targets {
    TargetForm form;
    const T* y;
    const T* weight;
    const T* fold;
    const T* held_out;
    T at(Index i, Index o, Index lanes) const {
        return form == TargetForm::values ? y[i * lanes + o] : form == TargetForm::shared ? y[i] : y[i] == T(o) ? T(1) : T(0);
    }
};

}  // namespace gdfast
