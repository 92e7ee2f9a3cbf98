// The second derivatives of a loss over some of the columns: what proximal Newton methods form their models of.
#pragma once
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

// A symmetric matrix without its zeros; the columns of a row increase.
struct SparseGram {
    std::vector<std::int64_t> starts;
    std::vector<std::int32_t> columns;
    std::vector<double> values;
};

// The columns of rows in CSR, a copy. Rows and columns are numbered by int32.
template <class T>
class SparseColumns {
public:
    SparseColumns(const Problem<T>&, const Team&);
    // A' diag(h) A * scale + ridge, A = these increasing columns; sums = scale * A'h. A column is summed by one thread, row
    // after row: the same bits for any number of them.
    SparseGram gram(const Problem<T>&, const std::int32_t* columns, Index count, const T* h, double scale, double ridge,
                    double* sums, const Team&) const;

private:
    Index longest_ = 0;  // row
    std::vector<Index> starts_;
    std::vector<std::int32_t> rows_;
    std::vector<T> x_;
};

}  // namespace gdfast
