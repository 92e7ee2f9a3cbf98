// The second derivatives of a loss over some of the columns: what proximal Newton methods form their models of.
#pragma once
#include <memory>
#include <vector>

#include "chunk.hpp"

namespace gdfast {

// h (n) = weight * d2 loss / d z2 at the margins X w + b, one output.
template <class T>
void curvatures(const Problem<T>&, const T* w, T* h, const Team&);

// H (count + 1) x (count + 1) becomes A' diag(h) A, A = these columns of dense X and, where there is an intercept, a column of
// ones.
template <class T>
void gram(const Problem<T>&, const Index* columns, Index count, const T* h, double* H, const Team&);

// The columns of rows in CSR, a copy. Rows and columns are numbered by int32.
template <class T>
struct SparseColumns {
    SparseColumns(const Problem<T>&, const Team&);
    Index longest = 0;  // row
    std::vector<Index> starts;
    std::unique_ptr<std::int32_t[]> rows;
    std::unique_ptr<T[]> x;
};

// A symmetric matrix without its zeros; the columns of a row increase.
struct SparseMatrix {
    std::vector<std::int64_t> starts;
    std::vector<std::int32_t> columns;
    std::vector<double> values;
};

// A' diag(h) A * scale + ridge and sums = scale * A'h, A = more and more columns. Each column is summed by one thread, row
// after row: the same bits for any number of them.
template <class T>
class SparseGram {
public:
    SparseGram(const T* h, double scale, double ridge) : h_(h), scale_(scale), ridge_(ridge) {}
    // count > 0 increasing ones of the problem's, none of them added before
    void add(const Problem<T>&, const SparseColumns<T>&, const std::int32_t* columns, Index count, const Team&);
    SparseMatrix matrix() const;
    std::vector<double> sums;

private:
    // Rows of the lower triangle, each with more room than it needs.
    struct Part {
        Index first;
        std::vector<Index> starts, counts;
        std::unique_ptr<std::int32_t[]> columns;
        std::unique_ptr<double[]> values;
    };
    template <class I>
    void sum_rows(const Problem<T>&, const SparseColumns<T>&, const I* indices, const I* indptr, Index j, double* sum,
                  double* total) const;
    const T* h_;
    double scale_, ridge_;
    std::vector<std::int32_t> columns_, rank_;  // rank_: place among columns_, or how many these are
    std::vector<Part> parts_;
};

}  // namespace gdfast
