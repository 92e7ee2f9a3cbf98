// Mini-batches of sparse rows, copied into small matrices of the columns that they hold: a step of such a one costs what its
// entries cost, and the copies of the next steps can be made by another thread. Free of any instruction set.
#pragma once
#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "chunk.hpp"

namespace gdfast {

template <class T>
struct Batch {
    Index rows, columns;
    const std::int32_t* column;  // where each of its columns is in X, and d for the intercept behind them
    CsrRows<T> X;
    const T *y, *weight, *fold;
};

// Calls call(indices, indptr) with their type.
template <class T, class Call>
auto with_index_type(const CsrRows<T>& X, const Call& call) {
    if (X.wide) return call(static_cast<const std::int64_t*>(X.indices), static_cast<const std::int64_t*>(X.indptr));
    return call(static_cast<const std::int32_t*>(X.indices), static_cast<const std::int32_t*>(X.indptr));
}

// So many entries at most are in `rows` rows.
template <class T>
Index most_entries(const Problem<T>& p, Index rows) {
    return with_index_type(p.csr, [&](auto, auto indptr) {
        Index longest = 0;
        for (Index i = 0; i < p.n; ++i) longest = std::max(longest, Index(indptr[i + 1]) - Index(indptr[i]));
        return longest > p.entries / std::max<Index>(rows, 1) ? p.entries : longest * rows;
    });
}

// A few consecutive batches.
template <class T>
class Turn {
public:
    // before: batches that come before the one of number 0
    Turn(const Problem<T>& problem, const Order* order, Index batch, Index batches, Index before)
        : p_(problem),
          order_(order),
          batch_(batch),
          before_(before),
          starts_(std::size_t(batches + 1)),
          place_(std::size_t(p_.d), -1) {
        const Index rows = std::min(p_.n, batch * batches), entries = most_entries(p_, rows);
        // not cleared: far more than is ever used where a few rows are long
        x_.reset(new T[std::size_t(entries)]);
        indices_.reset(new std::int32_t[std::size_t(entries)]);
        column_.reset(new std::int32_t[std::size_t(entries + batches + 1)]);
        indptr_.resize(std::size_t(rows + batches));
        rows_.resize(std::size_t(rows));
        y_.resize(std::size_t(rows * width()));
        weight_.resize(p_.weight ? std::size_t(rows) : 0);
        fold_.resize(p_.fold ? std::size_t(rows) : 0);
        std::iota(indices_.get(), indices_.get() + (batch == 1 ? std::min(entries, p_.d) : 0), 0);
    }

    bool holds(Index first) const { return first == first_; }

    // Batches from `first` on, as many as there is room for.
    void read(Index first) {
        const Index start = (before_ + first) * batch_, rows = std::min(Index(rows_.size()), p_.n - start);
        first_ = first;
        if (order_)
            p_.kernels->order_rows(p_.n, *order_, start, rows, rows_.data());
        else
            for (Index i = 0; i < rows; ++i) rows_[std::size_t(i)] = start + i;
        pick(p_.y, width(), rows, y_);
        pick(p_.weight, 1, rows, weight_);
        pick(p_.fold, 1, rows, fold_);
        with_index_type(p_.csr, [&](auto indices, auto indptr) { copy(indices, indptr, rows); });
    }

    Batch<T> operator[](Index b) const {
        const Index i = b - first_, row = i * batch_;
        const Start &from = starts_[std::size_t(i)], &to = starts_[std::size_t(i + 1)];
        const Index columns = to.column - from.column - 1;
        const CsrRows<T> X{x_.get() + from.entry, indices_.get() + (batch_ == 1 ? 0 : from.entry), indptr_.data() + row + i,
                           false, columns};
        return {to.row - from.row, columns,       column_.get() + from.column, X, y_.data() + row * width(),
                at(weight_, row),  at(fold_, row)};
    }

private:
    struct Start {
        Index row, column, entry;
    };
    Index width() const { return p_.form == TargetForm::values ? p_.k : 1; }
    static const T* at(const std::vector<T>& values, Index row) { return values.empty() ? nullptr : values.data() + row; }

    void pick(const T* from, Index width, Index rows, std::vector<T>& to) const {
        for (Index i = 0; from && i < rows; ++i)
            std::copy_n(from + rows_[std::size_t(i)] * width, std::size_t(width), to.data() + i * width);
    }

    template <class I>
    void copy(const I* indices, const I* indptr, Index rows) {
        Start at{0, 0, 0};
        for (Index i = 0; i * batch_ < rows; ++i) {
            starts_[std::size_t(i)] = at;
            const Index end = std::min(rows, at.row + batch_), before = at.entry;
            std::int32_t *offsets = indptr_.data() + at.row + i, *column = column_.get() + at.column;
            *offsets = 0;
            Index columns = 0;
            for (; at.row < end; ++at.row) {
                const Index row = rows_[std::size_t(at.row)], from = indptr[row], count = Index(indptr[row + 1]) - from;
                if (at.row + ahead < rows) {
                    const Index later = rows_[std::size_t(at.row + ahead)], start = indptr[later],
                                size = Index(indptr[later + 1]) - start;
                    for (Index s = 0; s < size; s += 16) __builtin_prefetch(p_.csr.x + start + s);
                    for (Index s = 0; s < size; s += 64 / Index(sizeof(I))) __builtin_prefetch(indices + start + s);
                }
                std::copy_n(p_.csr.x + from, std::size_t(count), x_.get() + at.entry);
                if (batch_ == 1)
                    for (; columns < count; ++columns) column[columns] = std::int32_t(indices[from + columns]);
                else
                    columns = number(indices + from, count, column, columns, indices_.get() + at.entry);
                at.entry += count;
                *++offsets = std::int32_t(at.entry - before);
            }
            for (Index c = 0; c < columns && batch_ > 1; ++c) place_[std::size_t(column[c])] = -1;
            column[columns] = std::int32_t(p_.d);
            at.column += columns + 1;
        }
        starts_[std::size_t((rows + batch_ - 1) / batch_)] = at;
    }

    // The columns of a row by their numbers in the batch, new ones being given the next; without a branch, which would be
    // taken wrongly half of the time.
    template <class I>
    Index number(const I* indices, Index count, std::int32_t* column, Index columns, std::int32_t* numbers) {
        for (Index s = 0; s < count; ++s) {
            std::int32_t& place = place_[std::size_t(indices[s])];
            const bool is_new = place < 0;
            column[columns] = std::int32_t(indices[s]);  // one behind the last is free: that of the intercept
            place = numbers[s] = is_new ? std::int32_t(columns) : place;
            columns += is_new;
        }
        return columns;
    }

    static constexpr Index ahead = 6;
    const Problem<T>& p_;
    const Order* order_;
    const Index batch_, before_;
    Index first_ = -1;
    std::vector<Start> starts_;
    std::vector<std::int32_t> place_, indptr_;  // place_: the number of each column of X in a batch, -1 outside of `copy`
    std::vector<Index> rows_;
    std::vector<T> y_, weight_, fold_;
    std::unique_ptr<T[]> x_;
    std::unique_ptr<std::int32_t[]> indices_, column_;
};

}  // namespace gdfast
