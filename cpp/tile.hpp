// A tile: as many rows as stay in cache between the margins and the gradient, and the scratch memory of the thread that
// works on it. Free of any instruction set.
#pragma once
#include <algorithm>
#include <atomic>
#include <vector>

#include "chunk.hpp"

namespace gdfast {

// What a tile accumulates in T before it is added to sums in double.
inline constexpr Index rows_summed_in_place = 256;
inline constexpr Index rows_drawn = 256;

template <class T>
class Tile {
public:
    // order: null for rows as they lie. gram_stride: 0 where no Hessian is asked for. product: whether products with it are.
    Tile(const Problem<T>& problem, const Order* order, Index gram_stride, bool product)
        : problem_(problem),
          order_(order),
          lanes_(lanes_of(problem.k)),
          capacity_(capacity(problem, gram_stride > 0 || product)),
          stride_(gram_stride) {
        const std::size_t m = std::size_t(capacity_), stride = std::size_t(gram_stride);
        z_.resize(m * std::size_t(lanes_));
        g_.resize(std::size_t((problem.d + 1) * lanes_));
        if (order) drawn_.resize(std::size_t(std::max(rows_drawn, capacity_)));
        if (order && !problem.by_rows) packed_.resize(m * std::size_t(problem.d));
        if (problem.y && (problem.k > 1 || order)) y_.resize(m * std::size_t(lanes_));
        if (problem.weight && order) weight_.resize(m);
        if (gram_stride || product) h_.resize(m * std::size_t(lanes_));
        if (!gram_stride) return;
        design_.resize(m * stride);
        scaled_.resize(m * stride);
        block_.resize(stride * stride);
    }

    Index rows() const { return capacity_; }

    // The margins of the m <= rows() rows from position `first` on; valid until the next call. w is (d + 1) x lanes.
    T* margins(Index first, Index m, const T* w) {
        select(first, m);
        const Kernels<T>& kernels = *problem_.kernels;
        if (as_rows_)
            kernels.margins_rows(rows_, selection_, m, w, lanes_, z_.data());
        else
            kernels.margins_columns(problem_.columns, first, m, w, lanes_, z_.data());
        return z_.data();
    }

    // g += the gradients of the rows from position `first` to `last`, weighted and summed; returns the sum of their losses.
    double gradient(Index first, Index last, const T* w, double* g, const std::atomic<bool>& cancel) {
        double loss = 0;
        Index pending = 0;
        for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += capacity_) {
            const Index m = std::min(capacity_, last - i);
            if (pending == 0) std::fill(g_.begin(), g_.end(), T(0));
            loss += gradient_of_tile(i, m, w);
            pending += m;
            if (pending >= rows_summed_in_place || i + m == last) {
                problem_.kernels->add(g_.data(), Index(g_.size()), g);
                pending = 0;
            }
        }
        return loss;
    }

    // As gradient, and H += X' diag(h) X, h the weighted curvature of output 0. H is gram_stride x gram_stride, upper triangle.
    double hessian(Index first, Index last, const T* w, double* g, double* H, const std::atomic<bool>& cancel) {
        double loss = 0;
        std::fill(g_.begin(), g_.end(), T(0));
        std::fill(block_.begin(), block_.end(), T(0));
        Index pending = 0;
        for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += capacity_) {
            const Index m = std::min(capacity_, last - i);
            margins(i, m, w);
            problem_.loss->curvatures(problem_.loss_parameters, z_.data(), targets_, weights_, m, problem_.k, lanes_,
                                      h_.data());
            loss += residuals(m);
            accumulate(i, m);
            for (Index s = 0; lanes_ > 1 && s < m; ++s) h_[std::size_t(s)] = h_[std::size_t(s * lanes_)];
            pack_design(i, m);
            problem_.kernels->gram(design_.data(), stride_, m, h_.data(), scaled_.data(), block_.data());
            pending += m;
            if (pending >= (sizeof(T) == 4 ? rows_summed_in_place : 4096) || i + m == last) {  // double is exact enough
                problem_.kernels->add(g_.data(), Index(g_.size()), g);
                problem_.kernels->add(block_.data(), stride_ * stride_, H);
                std::fill(g_.begin(), g_.end(), T(0));
                std::fill(block_.begin(), block_.end(), T(0));
                pending = 0;
            }
        }
        return loss;
    }

    // Hp += the second derivative of the weighted losses of those rows times p, both sets of margins from one reading of X.
    void hessian_product(Index first, Index last, const T* w, const T* p, double* Hp, const std::atomic<bool>& cancel) {
        std::fill(g_.begin(), g_.end(), T(0));
        Index pending = 0;
        for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += capacity_) {
            const Index m = std::min(capacity_, last - i);
            margins(i, m, w);
            std::swap(z_, h_);
            margins(i, m, p);
            problem_.loss->times_curvature(problem_.loss_parameters, h_.data(), targets_, weights_, m, problem_.k, lanes_,
                                           z_.data());
            accumulate(i, m);
            pending += m;
            if (pending >= rows_summed_in_place || i + m == last) {
                problem_.kernels->add(g_.data(), Index(g_.size()), Hp);
                std::fill(g_.begin(), g_.end(), T(0));
                pending = 0;
            }
        }
    }

private:
    double gradient_of_tile(Index first, Index m, const T* w) {
        if (lanes_ == 1 && (problem_.by_rows || order_)) {
            select(first, m);
            const WeightedLoss<T> loss{problem_.loss, problem_.loss_parameters, targets_, weights_};
            return problem_.kernels->gradient_rows(rows_, selection_, m, w, loss, g_.data());
        }
        margins(first, m, w);
        const double loss = residuals(m);
        accumulate(first, m);
        return loss;
    }

    // Short enough that the second reading comes from the nearest cache, while memory streams on; where a few rows fill
    // that cache, the next one has to do.
    static Index capacity(const Problem<T>& problem, bool in_parts) {
        const Index groups = (problem.n + 15) / 16 * 16;
        if (problem.by_rows && problem.k == 1 && !in_parts) return std::min(groups, rows_summed_in_place);  // the kernel cuts
        const Index row_bytes = std::max<Index>(1, problem.d) * Index(sizeof(T));
        const Index near = 8 * 1024 / row_bytes / 16 * 16, far = (problem.by_rows ? 128 : 256) * 1024 / row_bytes / 16 * 16;
        const Index wanted = problem.by_rows ? (near >= 16 ? std::min<Index>(near, 256) : std::clamp<Index>(far, 16, 256))
                                             : std::clamp<Index>(far, 64, 1024);
        // with many outputs a column is summed row after row: not too many of them in T
        const Index most = problem.k > 1 ? rows_summed_in_place : wanted;
        return std::min({wanted, most, groups});
    }

    void select(Index first, Index m) {
        const Problem<T>& p = problem_;
        as_rows_ = p.by_rows;
        rows_ = p.rows;
        selection_ = {nullptr, first};
        if (order_) selection_ = {drawn(first, m), 0};
        select_targets(m);
        if (order_ && !p.by_rows) {  // gathered into rows
            for (Index j = 0; j < p.d; ++j)
                for (Index i = 0; i < m; ++i) packed_[std::size_t(i * p.d + j)] = p.columns.columns[j][selection_[i]];
            as_rows_ = true;
            rows_ = {packed_.data(), p.d, p.d};
            selection_ = {nullptr, 0};
        }
    }

    void select_targets(Index m) {
        const Problem<T>& p = problem_;
        targets_ = nullptr;
        weights_ = nullptr;
        if (!p.y) return;
        if (p.k == 1 && !order_) {
            targets_ = p.y + selection_.first;
        } else {
            T* y = y_.data();
            targets_ = y;
            for (Index i = 0; i < m; ++i, y += lanes_) {
                const Index from = selection_[i];
                if (p.k == 1)
                    *y = p.y[from];
                else if (p.codes)
                    for (Index o = 0; o < p.k; ++o) y[o] = p.y[from] == T(o) ? T(1) : T(0);
                else
                    for (Index o = 0; o < p.k; ++o) y[o] = p.y[from * p.k + o];
            }
        }
        if (!p.weight) return;
        if (!order_) {
            weights_ = p.weight + selection_.first;
        } else {
            for (Index i = 0; i < m; ++i) weight_[std::size_t(i)] = p.weight[selection_[i]];
            weights_ = weight_.data();
        }
    }

    double residuals(Index m) {
        return problem_.loss->residuals(problem_.loss_parameters, z_.data(), targets_, weights_, m, problem_.k, lanes_);
    }

    // The rows at m <= rows() positions of the shuffled order, drawn in bulk: a step of one row costs no draw of its own.
    // Asking memory for them ahead of their use was tried and brought nothing: the processor runs ahead far enough.
    const Index* drawn(Index first, Index m) {
        if (first < drawn_first_ || first + m > drawn_first_ + drawn_count_) {
            drawn_first_ = first;
            drawn_count_ = std::min(Index(drawn_.size()), problem_.n - first);
            problem_.kernels->order_rows(problem_.n, *order_, first, drawn_count_, drawn_.data());
        }
        return drawn_.data() + (first - drawn_first_);
    }

    void accumulate(Index first, Index m) {
        if (as_rows_)
            problem_.kernels->accumulate_rows(rows_, selection_, m, z_.data(), lanes_, g_.data());
        else
            problem_.kernels->accumulate_columns(problem_.columns, first, m, z_.data(), lanes_, g_.data());
    }

    // (X 1) as rows of gram_stride, zeros behind
    void pack_design(Index first, Index m) {
        const Index d = problem_.d;
        for (Index i = 0; i < m; ++i) {
            T* out = design_.data() + i * stride_;
            if (as_rows_)
                std::copy_n(rows_.x + selection_[i] * rows_.stride, std::size_t(d), out);
            else
                for (Index j = 0; j < d; ++j) out[j] = problem_.columns.columns[j][first + i];
            out[d] = problem_.intercept ? T(1) : T(0);
        }
    }

    const Problem<T>& problem_;
    const Order* order_;
    Index lanes_, capacity_, stride_;
    bool as_rows_ = true;
    DenseRows<T> rows_{};
    Selection selection_{};
    const T* targets_ = nullptr;
    const T* weights_ = nullptr;
    std::vector<T> z_, y_, weight_, packed_, g_;
    std::vector<T> h_, design_, scaled_, block_;
    std::vector<Index> drawn_;
    Index drawn_first_ = 0, drawn_count_ = 0;
};

}  // namespace gdfast
