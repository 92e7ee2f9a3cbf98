// The rows of a shuffled order in the turn in which one thread works on them, drawn in bulk, and some ahead of their use: by
// then they have been asked for. Free of any instruction set.
#pragma once
#include <algorithm>
#include <vector>

#include "kernels.hpp"

namespace gdfast {

template <class T>
class Draws {
public:
    // most: rows of a tile; ahead: rows to know behind it
    Draws(const Kernels<T>& kernels, Index n, const Order* order, Index most, Index ahead)
        : kernels_(kernels),
          n_(n),
          order_(order),
          ahead_(ahead),
          capacity_(most + std::max(rows_in_bulk, 4 * ahead)),
          rows_(order ? std::size_t(capacity_ + ahead) : 0) {}

    // The rows at m positions from `first` on, and behind them those that come next, `known` in all: the positions before
    // `last`, then some from `then` on.
    const Index* take(Index first, Index m, Index last, Index then, Index& known) {
        if (first < first_ || first + std::min(m + ahead_, last - first) > first_ + count_) draw(first, last, then);
        known = first_ + count_ + tail_ - first;
        return rows_.data() + (first - first_);
    }

private:
    static constexpr Index rows_in_bulk = 1024;

    void draw(Index first, Index last, Index then) {
        Index have = 0;
        if (first >= first_ && first < first_ + count_)
            have = move(first - first_, first_ + count_ - first);
        else if (first == then_)
            have = move(count_, std::min(tail_, last - first));
        first_ = first;
        count_ = std::min(capacity_, last - first);
        kernels_.order_rows(n_, *order_, first + have, count_ - have, rows_.data() + have);
        then_ = then;
        tail_ = first + count_ == last ? std::min(ahead_, n_ - then) : 0;
        if (tail_) kernels_.order_rows(n_, *order_, then, tail_, rows_.data() + count_);
    }
    Index move(Index from, Index count) {
        std::copy_n(rows_.begin() + from, std::size_t(count), rows_.begin());
        return count;
    }

    const Kernels<T>& kernels_;
    const Index n_;
    const Order* order_;
    const Index ahead_, capacity_;
    std::vector<Index> rows_;  // those at positions first_ ... first_ + count_ - 1, then those at then_ ... then_ + tail_ - 1
    Index first_ = 0, count_ = 0, then_ = -1, tail_ = 0;
};

}  // namespace gdfast
