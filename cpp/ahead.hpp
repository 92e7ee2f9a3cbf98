// Asks memory for rows that are worked on some kilobytes later. Included by kernels.cpp only.
//
// Left alone, memory is read ahead only while rows are met for the first time, and rests while their residuals are computed
// and their gradient is summed from cache. So both readings of a group of rows ask for half of a later one, line by line:
// memory never rests. Lines go to the second cache: asked for into the first one, they fill the few buffers that loads need.
#pragma once
#include <cstdint>

#include "elementary.hpp"
#include "kernels.hpp"
#include "views.hpp"

namespace gdfast::GDFAST_ISA {

// GCC takes a function that only prefetches for one without effect, and drops its calls: it has to be gone before that.
#if defined(__GNUC__) || defined(__clang__)
__attribute__((always_inline)) inline void ask_for(std::uintptr_t line) {
    __builtin_prefetch(reinterpret_cast<const void*>(line), 0, 2);
}
#else
inline void ask_for(std::uintptr_t) {}
#endif

template <class T>
inline const T* row(const DenseRows<T>& X, const Selection& rows, Index i) {
    return X.x + rows[i] * X.stride;
}

template <class T>
class Ahead {
public:
    Ahead(const DenseRows<T>& X, const Selection& rows, Upcoming upcoming)
        : X_(X),
          rows_(rows),
          upcoming_(upcoming),
          packed_(X.stride == X.d),
          bytes_(X.d * Index(sizeof(T))),
          next_(rows_ahead(bytes_)) {
        begin();
    }
    // `count` rows are read once more than before
    void rows(Index count) {
        owed_ += count * bytes_ / 2;
        if (owed_ >= line) lines(owed_ / line);
    }
    // so many lines of them, before `rows` counts them
    void lines(Index count) {
        owed_ -= count * line;
        for (; count > 0; --count) {
            ask_for(at_);
            at_ += line;
            if (--left_ == 0) begin();
        }
    }

private:
    static constexpr Index line = 64, longest = 16, never = Index(1) << 62;

    // the next stretch of memory: rows one behind the other, as many as there are
    void begin() {
        if (!rows_.index && packed_) {
            const bool jumps = next_ >= upcoming_.last;
            if (jumps && upcoming_.then == nothing_then) return end();
            at_ = address(jumps ? upcoming_.then + next_ - upcoming_.last : next_);
            left_ = jumps ? never : Index(address(upcoming_.last) - at_ + line - 1) / line;
            next_ = max(next_, upcoming_.last);
            return;
        }
        if (next_ >= upcoming_.last) return end();
        const Index first = next_++;
        while (packed_ && next_ < upcoming_.last && next_ < first + longest && rows_[next_] == rows_[next_ - 1] + 1) ++next_;
        const std::uintptr_t start = address(first);
        const Index bytes = (next_ - first) * bytes_;
        at_ = start / line * line;
        left_ = (Index(start - at_) + bytes + line - 1) / line;
        owed_ += left_ * line - bytes;  // what lines hold of other rows is not counted
    }
    void end() { owed_ = -never, left_ = never; }
    std::uintptr_t address(Index i) const { return reinterpret_cast<std::uintptr_t>(row(X_, rows_, i)); }

    const DenseRows<T>& X_;
    const Selection& rows_;
    const Upcoming upcoming_;
    const bool packed_;
    const Index bytes_;                 // of a row
    Index next_, left_ = 0, owed_ = 0;  // the next row, lines left of a stretch, bytes to ask for
    std::uintptr_t at_ = 0;
};

// Where a tile is read by itself.
struct NothingAhead {
    void rows(Index) {}
    void lines(Index) {}
};

}  // namespace gdfast::GDFAST_ISA
