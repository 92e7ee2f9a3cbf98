// A tile: as many rows as stay in cache between the margins and the gradient, and the scratch memory of the thread that
// works on it. Free of any instruction set.
#pragma once
#include <algorithm>
#include <atomic>
#include <vector>

#include "aligned.hpp"
#include "chunk.hpp"
#include "draws.hpp"

namespace gdfast {

// What a tile accumulates in T before it is added to sums in double.
inline constexpr Index rows_summed_in_place = 256;
// Shuffled rows no longer than this, in runs of fewer, are copied one behind the other first.
inline constexpr Index gathered_bytes = 1024, gathered_below = 8;

template <class T>
class Tile {
public:
    // order: null for rows as they lie. gram_stride: 0 where no Hessian is asked for. product: whether products with it are.
    Tile(const Problem<T>& problem, const Order* order, Index gram_stride, bool product)
        : problem_(problem),
          order_(order),
          packs_(packs(problem, order, gram_stride)),
          as_(packs_ ? Layout::rows : problem.layout),
          lanes_(lanes_of(problem)),
          sums_in_T_(sums_in_T(problem, as_)),
          capacity_(capacity(problem, as_, packs_ || gram_stride > 0 || product)),
          stride_(gram_stride),
          rows_(problem.rows),
          draws_(*problem.kernels, problem.n, order, capacity_,
                 problem.layout == Layout::rows || problem.layout == Layout::quantized
                     ? rows_ahead(problem.d * Index(sizeof(T)))
                     : 0) {
        const std::size_t m = std::size_t(capacity_), stride = std::size_t(gram_stride);
        z_.resize(m * std::size_t(lanes_) + lanes_behind);
        const std::size_t parameters = std::size_t((problem.d + 1) * lanes_) + lanes_behind;
        if (sums_in_T_) g_.resize(parameters);
        if (rescales()) weights_.resize(parameters), direction_.resize(product ? parameters : 0);
        if (packs_) packed_.resize(m * std::size_t(problem.d));
        if (packs_) rows_ = {packed_.data(), problem.d, problem.d};
        if (problem.y) y_.resize(problem.form == TargetForm::values ? m * std::size_t(lanes_) : order ? m : 0);
        if (problem.weight && order) weight_.resize(m);
        if (problem.fold && order) fold_.resize(m);
        if (gram_stride || product) h_.resize(m * std::size_t(lanes_) + lanes_behind);
        if (!gram_stride) return;
        design_.resize(m * stride);
        scaled_.resize(m * stride);
        block_.resize(stride * stride);
    }

    Index rows() const { return capacity_; }

    // The margins of the m <= rows() rows from position `first` on; valid until the next call. w is (d + 1) x lanes.
    const T* margins(Index first, Index m, const T* w) {
        find_margins(first, m, in_units_of_X(w));
        return z_.data();
    }

    // g += the gradients of the rows from position `first` to `last`, weighted and summed; losses (lanes of them) += the sums
    // of their losses, by output. g starts at 0. `next`: the positions that will be asked for.
    void gradient(Index first, Index last, Upcoming next, const T* w, double* g, double* losses,
                  const std::atomic<bool>& cancel) {
        w = in_units_of_X(w);
        next_ = next;
        for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += capacity_) {
            const Index m = std::min(capacity_, last - i);
            if (as_ == Layout::rows && lanes_ == 1 && !problem_.fold) {
                select(i, m);
                const WeightedLoss<T> loss{problem_.loss, problem_.loss_parameters, targets_.y, targets_.weight};
                *losses += problem_.kernels->gradient_rows(rows_, selection_, m, upcoming_, w, loss, sums_in_place());
                add_in_time(m, i + m == last, g);
                continue;
            }
            find_margins(i, m, w);
            residuals(m, losses);
            accumulate(m, i + m == last, g);
        }
        to_units_of_scaling(g);
    }

    // As gradient, and H += X' diag(h) X, h the weighted curvature of output 0. H is gram_stride x gram_stride, upper triangle.
    void hessian(Index first, Index last, const T* w, double* g, double* H, double* losses, const std::atomic<bool>& cancel) {
        std::fill(block_.begin(), block_.end(), T(0));
        Index pending = 0;
        for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += capacity_) {
            const Index m = std::min(capacity_, last - i);
            const bool end = i + m == last;
            find_margins(i, m, w);
            problem_.loss->curvatures(problem_.loss_parameters, z_.data(), targets_, m, problem_.k, lanes_, h_.data());
            residuals(m, losses);
            accumulate(m, end, g);
            for (Index s = 0; lanes_ > 1 && s < m; ++s) h_[std::size_t(s)] = h_[std::size_t(s * lanes_)];
            pack_design(m);
            problem_.kernels->gram(design_.data(), stride_, m, h_.data(), scaled_.data(), block_.data());
            pending += m;
            if (pending < (sizeof(T) == 4 ? rows_summed_in_place : 4096) && !end) continue;  // double is exact enough
            problem_.kernels->add(block_.data(), stride_ * stride_, H);
            std::fill(block_.begin(), block_.end(), T(0));
            pending = 0;
        }
    }

    // Hp += the second derivative of the weighted losses of those rows times p, both sets of margins from one reading of X.
    // Hp starts at 0.
    void hessian_product(Index first, Index last, const T* w, const T* p, double* Hp, const std::atomic<bool>& cancel) {
        w = in_units_of_X(w);
        if (rescales()) p = scaled_into(direction_, p);
        for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += capacity_) {
            const Index m = std::min(capacity_, last - i);
            find_margins(i, m, w);
            std::swap(z_, h_);
            find_margins(i, m, p);
            problem_.loss->times_curvature(problem_.loss_parameters, h_.data(), targets_, m, problem_.k, lanes_, z_.data());
            accumulate(m, i + m == last, Hp);
        }
        to_units_of_scaling(Hp);
    }

    // As gradient and as hessian_product, at margins z and curvatures h that the caller keeps; z, h and u begin at row 0.
    void gradient_at(Index first, Index last, const T* z, double* g, T* h, double* losses, const std::atomic<bool>& cancel) {
        for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += capacity_) {
            const Index m = std::min(capacity_, last - i);
            select(i, m);
            std::copy_n(z + i, std::size_t(m), z_.data());
            problem_.loss->curvatures(problem_.loss_parameters, z_.data(), targets_, m, 1, 1, h + i);
            residuals(m, losses);
            accumulate(m, i + m == last, g);
        }
        to_units_of_scaling(g);
    }
    void curved_product(Index first, Index last, const T* h, const T* p, T* u, double* Hp, const std::atomic<bool>& cancel) {
        p = in_units_of_X(p);
        for (Index i = first; i < last && !cancel.load(std::memory_order_relaxed); i += capacity_) {
            const Index m = std::min(capacity_, last - i);
            find_margins(i, m, p);
            std::copy_n(z_.data(), std::size_t(m), u + i);
            for (Index s = 0; s < m; ++s) z_[std::size_t(s)] *= h[i + s];
            accumulate(m, i + m == last, Hp);
        }
        to_units_of_scaling(Hp);
    }

private:
    // Are rows gathered into dense ones first?
    static bool packs(const Problem<T>& problem, const Order* order, Index gram_stride) {
        if (problem.layout == Layout::csr) return gram_stride > 0;
        if (problem.layout == Layout::quantized) return true;
        return problem.scaling.factor || (order && (problem.layout == Layout::columns || gathers(problem, *order)));
    }

    // Short rows in any order are copied first: to look for each of them twice costs more.
    static bool gathers(const Problem<T>& problem, const Order& order) {
        return problem.layout == Layout::rows && order.block < gathered_below && problem.d * Index(sizeof(T)) <= gathered_bytes;
    }

    // Few columns of sparse rows are summed in T like dense ones; to clear many of them a tile would cost more than the tile.
    static bool sums_in_T(const Problem<T>& problem, Layout as) {
        const double entries = double(problem.entries) / double(problem.n) * double(rows_summed_in_place);
        return as != Layout::csr || (problem.k > 1 && entries >= 4 * double(problem.d));
    }

    // Sparse rows stay as they are: it is the weights and their gradient that are scaled.
    bool rescales() const { return as_ == Layout::csr && problem_.scaling.factor; }

    // w f_j for X, and the bias less what the offsets add to every margin
    const T* scaled_into(Aligned<T>& out, const T* w) const {
        const Index d = problem_.d;
        for (Index o = 0; o < lanes_; ++o) {
            double moved = 0;
            for (Index j = 0; j < d; ++j) {
                const T weight = w[j * lanes_ + o] * problem_.scaling.factor[j];
                out[std::size_t(j * lanes_ + o)] = weight;
                moved += double(weight) * double(problem_.scaling.offset[j]);
            }
            out[std::size_t(d * lanes_ + o)] = T(double(w[d * lanes_ + o]) - moved);
        }
        return out.data();
    }
    const T* in_units_of_X(const T* w) { return rescales() ? scaled_into(weights_, w) : w; }

    void to_units_of_scaling(double* g) const {
        if (!rescales()) return;
        const double* all = g + problem_.d * lanes_;  // the sum of the residuals
        for (Index j = 0; j < problem_.d; ++j)
            for (Index o = 0; o < lanes_; ++o) {
                double& sum = g[j * lanes_ + o];
                sum = double(problem_.scaling.factor[j]) * (sum - double(problem_.scaling.offset[j]) * all[o]);
            }
    }

    void find_margins(Index first, Index m, const T* w) {
        select(first, m);
        const Kernels<T>& kernels = *problem_.kernels;
        if (as_ == Layout::rows)
            kernels.margins_rows(rows_, selection_, m, w, lanes_, z_.data());
        else if (as_ == Layout::columns)
            kernels.margins_columns(problem_.columns, selection_.first, m, w, lanes_, z_.data());
        else
            kernels.margins_csr(problem_.csr, selection_, m, w, lanes_, z_.data());
    }

    // Short enough that the second reading comes from the nearest cache, while memory streams on; where a few rows fill
    // that cache, the next one has to do.
    static Index capacity(const Problem<T>& problem, Layout as, bool in_parts) {
        const Index groups = (problem.n + 15) / 16 * 16;
        if (as == Layout::rows && problem.k == 1 && !in_parts)
            return std::min(groups, rows_summed_in_place);  // the kernel cuts
        const Index bytes = std::max<Index>(1, as == Layout::csr ? Index(row_bytes(problem)) : problem.d * Index(sizeof(T)));
        const bool columns = as == Layout::columns;
        const Index nearest = problem.layout == Layout::quantized ? 24 * 1024 : 8 * 1024;  // or what it is widened into
        const Index near = nearest / bytes / 16 * 16, far = (columns ? 256 : 128) * 1024 / bytes / 16 * 16;
        const Index wanted = columns ? std::clamp<Index>(far, 64, 512)
                                     : (near >= 16 ? std::min<Index>(near, 256) : std::clamp<Index>(far, 16, 256));
        // with many outputs a reading takes so long that the next cache keeps up with it, but a column is summed row after row:
        // not too many of them in T
        const Index many = std::clamp<Index>(far, 16, rows_summed_in_place);
        return std::min(problem.k > 1 ? many : wanted, groups);
    }

    void select(Index first, Index m) {
        selection_ = {nullptr, first};
        upcoming_ = {next_.last - first, next_.then - first};
        if (order_) selection_ = {draws_.take(first, m, std::max(first + m, next_.last), next_.then, upcoming_.last), 0};
        select_targets(m);
        if (!packs_) return;
        pack(m);
        selection_ = {nullptr, 0};
        upcoming_ = {m, nothing_then};
    }

    // the selected rows, gathered into dense ones and scaled
    void pack(Index m) {
        const Problem<T>& p = problem_;
        if (p.layout == Layout::rows && !order_) return p.kernels->scale_rows(p.rows, selection_, m, p.scaling, packed_.data());
        if (p.layout == Layout::rows)
            p.kernels->gather_rows(p.rows, selection_, m, upcoming_.last, packed_.data());
        else if (p.layout == Layout::quantized)
            p.kernels->widen_rows(p.quantized, selection_, m, upcoming_.last, packed_.data());
        else if (p.layout == Layout::csr)
            p.kernels->unpack_csr(p.csr, selection_, m, packed_.data());
        else
            for (Index j = 0; j < p.d; ++j)
                for (Index i = 0; i < m; ++i) packed_[std::size_t(i * p.d + j)] = p.columns.columns[j][selection_[i]];
        if (p.scaling.factor) p.kernels->scale_rows(rows_, {nullptr, 0}, m, p.scaling, packed_.data());
    }

    void select_targets(Index m) {
        const Problem<T>& p = problem_;
        if (!p.y) return;
        targets_ = {p.form, p.y, one_a_row(p.weight, weight_, m), one_a_row(p.fold, fold_, m), p.held_out};
        if (p.form != TargetForm::values) {
            targets_.y = one_a_row(p.y, y_, m);
            return;
        }
        targets_.y = y_.data();
        for (Index i = 0; i < m; ++i) std::copy_n(p.y + selection_[i] * p.k, std::size_t(p.k), y_.data() + i * lanes_);
    }

    // the numbers of the selected rows: where they lie, or gathered
    const T* one_a_row(const T* from, std::vector<T>& gathered, Index m) const {
        if (!from || !order_) return from ? from + selection_.first : nullptr;
        for (Index i = 0; i < m; ++i) gathered[std::size_t(i)] = from[selection_[i]];
        return gathered.data();
    }

    void residuals(Index m, double* losses) {
        problem_.loss->residuals(problem_.loss_parameters, z_.data(), targets_, m, problem_.k, lanes_, losses);
    }

    // Where the gradient of some hundred rows is summed in T before it is added to its sums in double.
    T* sums_in_place() {
        if (pending_ == 0) std::fill(g_.begin(), g_.end(), T(0));
        return g_.data();
    }
    void add_in_time(Index m, bool last, double* g) {
        pending_ += m;
        if (pending_ < rows_summed_in_place && !last) return;
        problem_.kernels->add(g_.data(), (problem_.d + 1) * lanes_, g);
        pending_ = 0;
    }

    // g += X' r; `last`: no more rows come
    void accumulate(Index m, bool last, double* g) {
        const Kernels<T>& kernels = *problem_.kernels;
        if (!sums_in_T_) return kernels.accumulate_csr(problem_.csr, selection_, m, z_.data(), lanes_, g);
        if (as_ == Layout::csr)
            kernels.accumulate_csr_in_place(problem_.csr, selection_, m, z_.data(), lanes_, sums_in_place());
        else if (as_ == Layout::rows)
            kernels.accumulate_rows(rows_, selection_, m, z_.data(), lanes_, sums_in_place());
        else
            kernels.accumulate_columns(problem_.columns, selection_.first, m, z_.data(), lanes_, sums_in_place());
        add_in_time(m, last, g);
    }

    // (X 1) as rows of gram_stride, zeros behind
    void pack_design(Index m) {
        const Index d = problem_.d;
        for (Index i = 0; i < m; ++i) {
            T* out = design_.data() + i * stride_;
            if (as_ == Layout::rows)
                std::copy_n(rows_.x + selection_[i] * rows_.stride, std::size_t(d), out);
            else
                for (Index j = 0; j < d; ++j) out[j] = problem_.columns.columns[j][selection_[i]];
            out[d] = problem_.intercept ? T(1) : T(0);
        }
    }

    const Problem<T>& problem_;
    const Order* order_;
    const bool packs_;
    const Layout as_;  // what the kernels see
    const Index lanes_;
    const bool sums_in_T_;
    const Index capacity_, stride_;
    DenseRows<T> rows_;
    Index pending_ = 0;  // rows in g_
    Selection selection_{};
    Upcoming next_{}, upcoming_{};  // as positions, as the kernels count
    Targets<T> targets_{};
    Aligned<T> z_, g_, weights_, direction_, h_, packed_;
    std::vector<T> y_, weight_, fold_, design_, scaled_, block_;
    Draws<T> draws_;
};

}  // namespace gdfast
