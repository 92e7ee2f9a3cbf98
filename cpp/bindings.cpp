// The border with Python: the only file that knows it. Arrays are taken strictly (type, order, size, alignment), never
// converted; the GIL is released before the work starts. What is wrong with the data is the business of sources.py; here
// is refused what would be unsafe in memory.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>

#include "chunk.hpp"
#include "dispatch.hpp"
#include "kernels.hpp"
#include "shards.hpp"
#include "worker.hpp"
#include "working_set.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace py = pybind11;
using namespace gdfast;

namespace {

// Work below this many bytes is done where it is called, by one thread: a hand-over costs 30 to 150 microseconds.
constexpr double small_work = 1 << 20;
// Below this many a team that sleeps is not woken for one call.
constexpr double worth_waking = 16 << 20;

thread_local bool in_scope = false;  // of `with Worker()`

// Runs `work(cancel, threads)` without the GIL: small work here and now, by one thread, all else on a worker.
template <class Work>
void run(double bytes, int threads, const Work& work) {
    bool interrupted = false;
    {
        py::gil_scoped_release nogil;
        if (bytes < small_work) {
            work(std::atomic<bool>{false}, 1);
            return;
        }
        const auto look_for_signals = [] {
            py::gil_scoped_acquire gil;
            return PyErr_CheckSignals() != 0;
        };
        Worker& worker = worker_of_this_thread();
        const int members = !in_scope && bytes < worth_waking && worker.rested() ? 1 : threads;
        const Job job = [&](const std::atomic<bool>& cancel) { work(cancel, members); };
        interrupted = worker.run(job, members, look_for_signals);
    }
    if (interrupted) throw py::error_already_set();
}

// `with Worker():` ends the worker of this thread behind it, unless kept; nested ones do nothing.
struct WorkerScope {
    const bool kept;
    bool outermost = false;
    explicit WorkerScope(bool kept) : kept(kept) {}
    void enter() {
        if (!in_scope) outermost = in_scope = true;
    }
    void exit() {
        if (!outermost) return;
        in_scope = outermost = false;
        if (kept) return;
        py::gil_scoped_release nogil;
        end_worker_of_this_thread();
    }
};

[[noreturn]] void refuse(const std::string& name, const std::string& why) { throw std::invalid_argument(name + ": " + why); }

template <class T>
const char* type_name() {
    return std::is_same_v<T, float>          ? "float32"
           : std::is_same_v<T, double>       ? "float64"
           : std::is_same_v<T, Index>        ? "int64"
           : std::is_same_v<T, std::int32_t> ? "int32"
                                             : "uint32";
}

// Nothing but an array: a list would be converted, and the copy be gone before its memory is used.
py::array array_of(const py::handle& object, const char* name) {
    if (!py::isinstance<py::array>(object))
        refuse(name, "expected an array, got " + py::str(py::type::of(object).attr("__name__")).cast<std::string>());
    return py::reinterpret_borrow<py::array>(object);
}

// The memory of a C-ordered, aligned array of exactly `size` numbers of type T.
template <class T>
T* memory(const py::array& a, const char* name, Index size, bool written) {
    if (!py::isinstance<py::array_t<T>>(a))
        refuse(name, std::string("expected ") + type_name<T>() + ", got " + py::str(a.dtype()).cast<std::string>());
    if (a.size() != size) refuse(name, "expected " + std::to_string(size) + " numbers, got " + std::to_string(a.size()));
    if (!(a.flags() & py::array::c_style)) refuse(name, "expected a C-contiguous array");
    if (std::uintptr_t(a.data()) % alignof(T)) refuse(name, "expected aligned memory");
    if (written && !a.writeable()) refuse(name, "the array is read-only");
    return const_cast<T*>(static_cast<const T*>(a.data()));
}

template <class T>
const T* optional_memory(const py::object& a, const char* name, Index size) {
    return a.is_none() ? nullptr : memory<T>(array_of(a, name), name, size, false);
}

// The layouts of layouts.py: an array, a tuple of columns, CsrRows, Quantized, and Scaled around any of them.
bool is_csr(const py::handle& X) { return py::hasattr(X, "indptr"); }
bool is_scaled(const py::handle& X) { return py::hasattr(X, "factor"); }
bool is_quantized(const py::handle& X) { return py::hasattr(X, "stored"); }

// X as the kernels read it; keeps the pointers to columns alive.
template <class T>
struct Features {
    Problem<T> problem{};
    std::vector<const T*> pointers;
    explicit Features(const py::object& X) {
        problem.kernels = &table_of<T>(active());
        open(is_scaled(X) ? py::object(X.attr("X")) : X);
        if (!is_scaled(X)) return;
        problem.scaling = {memory<T>(array_of(X.attr("offset"), "X.offset"), "X.offset", problem.d, false),
                           memory<T>(array_of(X.attr("factor"), "X.factor"), "X.factor", problem.d, false)};
    }
    Features(const Features&) = delete;
    double bytes() const { return double(problem.n) * row_bytes(problem) * double(problem.k); }

private:
    void open(const py::object& X) {
        if (is_csr(X)) return open_csr(X);
        if (is_quantized(X)) return open_quantized(X);
        if (py::isinstance<py::tuple>(X)) {
            const py::tuple columns = X.cast<py::tuple>();
            problem.n = array_of(columns[0], "X").size();
            for (const py::handle& column : columns)
                pointers.push_back(memory<T>(array_of(column, "X"), "X", problem.n, false));
        } else {
            const py::array a = array_of(X, "X");
            if (a.ndim() != 2) refuse("X", "expected 2 dimensions, got " + std::to_string(a.ndim()));
            if (!py::isinstance<py::array_t<T>>(a)) refuse("X", std::string("expected ") + type_name<T>());
            if (std::uintptr_t(a.data()) % alignof(T)) refuse("X", "expected aligned memory");
            const Index size = sizeof(T), n = a.shape(0), d = a.shape(1), by_row = a.strides(0), by_column = a.strides(1);
            const T* x = static_cast<const T*>(a.data());
            problem.n = n;
            if ((by_column == size || d == 1) && by_row % size == 0) {
                problem.layout = Layout::rows;
                problem.rows = {x, by_row / size, d};
                problem.d = d;
                return;
            }
            if (by_row != size || by_column % size) refuse("X", "expected unit stride along a row or along a column");
            for (Index j = 0; j < d; ++j) pointers.push_back(x + j * (by_column / size));
        }
        problem.d = Index(pointers.size());
        problem.layout = Layout::columns;
        problem.columns = {pointers.data(), problem.d};
    }

    void open_quantized(const py::object& X) {
        const py::array bits = array_of(X.attr("bits"), "X.bits");
        const std::string name = X.attr("stored").cast<std::string>();
        const char* const names[] = {"float16", "bfloat16", "int8", "uint8"};
        const Index kind = std::find(names, names + 4, name) - names, size = kind < 2 ? 2 : 1;
        const bool typed = kind < 2    ? py::isinstance<py::array_t<std::uint16_t>>(bits)
                           : kind == 2 ? py::isinstance<py::array_t<std::int8_t>>(bits)
                                       : kind == 3 && py::isinstance<py::array_t<std::uint8_t>>(bits);
        if (!typed) refuse("X.bits", "expected the bits of " + name + ", got " + py::str(bits.dtype()).cast<std::string>());
        if (bits.ndim() != 2 || bits.shape(1) < 1) refuse("X.bits", "expected 2 dimensions, and a column");
        problem.n = bits.shape(0), problem.d = bits.shape(1);
        if ((bits.strides(1) != size && problem.d > 1) || bits.strides(0) % size || std::uintptr_t(bits.data()) % size)
            refuse("X.bits", "expected aligned rows of unit stride");
        const T* scale = optional_memory<T>(X.attr("scale"), "X.scale", problem.d);
        const T* offset = optional_memory<T>(X.attr("offset"), "X.offset", problem.d);
        if (!scale != !offset) refuse("X.scale", "expected both of scale and offset, or none");
        problem.layout = Layout::quantized;
        problem.quantized = {bits.data(), Stored(kind), bits.strides(0) / size, problem.d, scale, offset};
    }

    void open_csr(const py::object& X) {
        const py::array x = array_of(X.attr("data"), "X.data"), indptr = array_of(X.attr("indptr"), "X.indptr");
        const py::array indices = array_of(X.attr("indices"), "X.indices");
        problem.layout = Layout::csr;
        problem.n = indptr.size() - 1;
        problem.d = X.attr("d").cast<Index>();
        problem.entries = x.size();
        if (problem.n < 0 || problem.d < 1) refuse("X", "expected at least one column, and the end of the last row");
        problem.csr = {memory<T>(x, "X.data", problem.entries, false), nullptr, nullptr,
                       py::isinstance<py::array_t<std::int64_t>>(indices), problem.d};
        const auto whole_numbers = [&](const py::array& a, const char* name, Index size) -> const void* {
            if (problem.csr.wide) return memory<std::int64_t>(a, name, size, false);
            return memory<std::int32_t>(a, name, size, false);
        };
        problem.csr.indices = whole_numbers(indices, "X.indices", problem.entries);
        problem.csr.indptr = whole_numbers(indptr, "X.indptr", problem.n + 1);
    }
};

// Runs call(float()) or call(double()) by the type of an array, or of the first one of a tuple.
template <class Call>
auto by_type(const py::object& object, const char* name, const Call& call) {
    const py::object X = is_scaled(object) ? py::object(object.attr("X")) : object;
    const bool columns = py::isinstance<py::tuple>(X);
    if (columns && py::len(X) == 0) refuse(name, "expected at least one column");
    const py::object first = columns ? py::object(X[py::int_(0)]) : X;
    if (is_quantized(first)) return call(float());
    const py::array a = array_of(is_csr(first) ? py::object(first.attr("data")) : first, name);
    if (py::isinstance<py::array_t<float>>(a)) return call(float());
    if (py::isinstance<py::array_t<double>>(a)) return call(double());
    refuse(name, "expected float32 or float64, got " + py::str(a.dtype()).cast<std::string>());
}

template <class Entry>
const Entry& find(const Entry* entries, int count, const std::string& name, const std::vector<double>& parameters) {
    for (const Entry* e = entries; e != entries + count; ++e)
        if (name == e->name) {
            if (int(parameters.size()) != e->n_parameters)
                refuse(name,
                       "expected " + std::to_string(e->n_parameters) + " parameters, got " + std::to_string(parameters.size()));
            return *e;
        }
    throw std::invalid_argument("no native kernel is named '" + name + "'");
}

// The rest of a problem: targets, weights, loss.
template <class T>
void complete(Features<T>& X, const py::array& y, const py::object& weight, Index k, const std::string& loss,
              const std::vector<double>& parameters, bool intercept) {
    Problem<T>& p = X.problem;
    p.k = k;
    p.form = k == 1 ? TargetForm::shared : y.ndim() == 1 ? TargetForm::codes : TargetForm::values;
    p.y = memory<T>(y, "y", p.form == TargetForm::values ? p.n * k : p.n, false);
    p.weight = optional_memory<T>(weight, "weight", p.n);
    p.loss = &find(p.kernels->losses, p.kernels->n_losses, loss, parameters);
    p.loss_parameters = parameters.data();
    p.intercept = intercept;
}

Index outputs(const py::array& w, Index d) {
    const Index k = w.ndim() == 2 ? Index(w.shape(1)) : 1;
    if (w.size() != (d + 1) * k || k < 1)
        refuse("w", "expected (" + std::to_string(d + 1) + ", k) numbers, intercept last, got " + std::to_string(w.size()));
    return k;
}

double gradient_of(const py::object& X, const py::array& y, const py::object& weight, const py::array& w, const py::array& g,
                   const py::object& H, const std::string& loss, const std::vector<double>& parameters, bool intercept,
                   int threads, Index shards) {
    return by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        complete(features, y, weight, outputs(w, p.d), loss, parameters, intercept);
        const Index size = (p.d + 1) * p.k;
        const T* from = memory<T>(w, "w", size, false);
        double* to = memory<double>(g, "g", size, true);
        double* matrix = H.is_none() ? nullptr : memory<double>(array_of(H, "H"), "H", (p.d + 1) * (p.d + 1), true);
        double sum = 0;
        const double bytes = features.bytes() * (matrix ? double(p.d) / 8 + 1 : 1);
        run(bytes, threads, [&](const std::atomic<bool>& cancel, int members) {
            const Team team{members, shards, &cancel};
            sum = matrix ? hessian(p, from, to, matrix, team) : gradient(p, from, to, team);
        });
        return sum;
    });
}

void hessian_product_of(const py::object& X, const py::array& y, const py::object& weight, const py::array& w,
                        const py::array& p, const py::array& Hp, const std::string& loss, const std::vector<double>& parameters,
                        bool intercept, int threads) {
    by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& problem = features.problem;
        complete(features, y, weight, outputs(w, problem.d), loss, parameters, intercept);
        const Index size = (problem.d + 1) * problem.k;
        const T* from = memory<T>(w, "w", size, false);
        const T* direction = memory<T>(p, "p", size, false);
        double* to = memory<double>(Hp, "Hp", size, true);
        run(2 * features.bytes(), threads, [&](const std::atomic<bool>& cancel, int members) {
            hessian_product(problem, from, direction, to, Team{members, 0, &cancel});
        });
        return 0;
    });
}

double gradient_at_of(const py::object& X, const py::array& y, const py::object& weight, const py::array& z, const py::array& g,
                      const py::array& h, const std::string& loss, const std::vector<double>& parameters, bool intercept,
                      int threads) {
    return by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        complete(features, y, weight, 1, loss, parameters, intercept);
        const T* from = memory<T>(z, "z", p.n, false);
        double* to = memory<double>(g, "g", p.d + 1, true);
        T* curvature = memory<T>(h, "h", p.n, true);
        double sum = 0;
        run(features.bytes(), threads, [&](const std::atomic<bool>& cancel, int members) {
            sum = gradient_at(p, from, to, curvature, Team{members, 0, &cancel});
        });
        return sum;
    });
}

py::tuple conjugate_gradients_of(const py::object& X, const py::array& h, const py::array& g, const py::array& diagonal,
                                 double total, double l2, double share, Index most, const py::array& s,
                                 const py::array& margins, bool intercept, int threads) {
    return by_type(X, "X", [&](auto type) -> py::tuple {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        p.k = 1;
        p.intercept = intercept;
        const NewtonSystem<T> system{memory<T>(h, "h", p.n, false),
                                     memory<double>(g, "g", p.d + 1, false),
                                     memory<double>(diagonal, "diagonal", p.d + 1, false),
                                     total,
                                     l2,
                                     share,
                                     most};
        double* to = memory<double>(s, "s", p.d + 1, true);
        T* moved = memory<T>(margins, "margins", p.n, true);
        NewtonStep step{};
        run(features.bytes(), threads, [&](const std::atomic<bool>& cancel, int members) {
            step = conjugate_gradients(p, system, to, moved, Team{members, 0, &cancel});
        });
        return py::make_tuple(step.fall, step.products);
    });
}

void curvatures_of(const py::object& X, const py::array& y, const py::object& weight, const py::array& w, const py::array& h,
                   const std::string& loss, const std::vector<double>& parameters, int threads) {
    by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        complete(features, y, weight, 1, loss, parameters, true);
        const T* from = memory<T>(w, "w", p.d + 1, false);
        T* to = memory<T>(h, "h", p.n, true);
        run(features.bytes(), threads,
            [&](const std::atomic<bool>& cancel, int members) { curvatures(p, from, to, Team{members, 0, &cancel}); });
        return 0;
    });
}

// Increasing numbers of columns.
template <class I>
const I* columns_of(const py::array& columns, Index d) {
    const Index count = columns.size();
    const I* from = memory<I>(columns, "columns", count, false);
    for (Index j = 0; j < count; ++j)
        if (from[j] < 0 || from[j] >= d || (j > 0 && from[j] <= from[j - 1]))
            refuse("columns", "expected increasing numbers below " + std::to_string(d));
    return from;
}

void gram_of(const py::object& X, const py::array& columns, const py::array& h, const py::array& H, bool intercept,
             int threads) {
    by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        if (p.layout != Layout::rows && p.layout != Layout::columns)
            refuse("X", "expected dense rows or columns; SparseGram is for sparse ones");
        p.k = 1;
        p.intercept = intercept;
        const Index count = columns.size(), *from = columns_of<Index>(columns, p.d);
        const T* curvature = memory<T>(h, "h", p.n, false);
        double* to = memory<double>(H, "H", (count + 1) * (count + 1), true);
        run(features.bytes() * (double(count) / 8 + 1), threads, [&](const std::atomic<bool>& cancel, int members) {
            gram(p, from, count, curvature, to, Team{members, 0, &cancel});
        });
        return 0;
    });
}

template <class T>
py::array array_from(std::vector<T>&& numbers) {
    auto* const owned = new std::vector<T>(std::move(numbers));
    const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<T>*>(p); });
    return py::array_t<T>(py::ssize_t(owned->size()), owned->data(), owner);
}

// A' diag(h) A of more and more columns of CsrRows. Keeps the rows, and a copy of their columns.
struct GramOfColumns {
    virtual ~GramOfColumns() = default;
    virtual void set(const py::array& h, double scale, double ridge) = 0;
    virtual void add(const py::array& columns, int threads) = 0;
    virtual py::tuple matrix() const = 0;
};
template <class T>
class TypedGram : public GramOfColumns {
public:
    TypedGram(const py::object& X, int threads) : X_(X), features_(X) {
        Problem<T>& p = features_.problem;
        constexpr Index most = std::numeric_limits<std::int32_t>::max();
        if (p.layout != Layout::csr) refuse("X", "expected CsrRows");
        if (p.n > most || p.d > most) refuse("X", "expected fewer than 2^31 rows and columns");
        p.k = 1;
        run(features_.bytes(), threads, [&](const std::atomic<bool>& cancel, int members) {
            columns_ = std::make_unique<SparseColumns<T>>(p, Team{members, 0, &cancel});
        });
    }
    void set(const py::array& h, double scale, double ridge) override {
        gram_ = std::make_unique<SparseGram<T>>(memory<T>(h, "h", features_.problem.n, false), scale, ridge);
        h_ = h;
        added_.assign(std::size_t(features_.problem.d), false);
    }
    void add(const py::array& columns, int threads) override {
        const Problem<T>& p = features_.problem;
        const std::int32_t* from = columns_of<std::int32_t>(columns, p.d);
        if (!gram_) refuse("h", "expected set() before add()");
        const Index count = columns.size();
        for (Index j = 0; j < count; ++j)
            if (added_[std::size_t(from[j])]) refuse("columns", std::to_string(from[j]) + " was added before");
        for (Index j = 0; j < count; ++j) added_[std::size_t(from[j])] = true;
        if (count == 0) return;
        run(4 * features_.bytes() * double(count) / double(p.d), threads, [&](const std::atomic<bool>& cancel, int members) {
            gram_->add(p, *columns_, from, count, Team{members, 0, &cancel});
        });
    }
    py::tuple matrix() const override {
        if (!gram_) refuse("h", "expected set() before matrix()");
        SparseMatrix found;
        {
            py::gil_scoped_release nogil;
            found = gram_->matrix();
        }
        return py::make_tuple(array_from(std::move(found.starts)), array_from(std::move(found.columns)),
                              array_from(std::move(found.values)), array_from(std::vector<double>(gram_->sums)));
    }

private:
    py::object X_, h_;
    Features<T> features_;
    std::unique_ptr<SparseColumns<T>> columns_;
    std::unique_ptr<SparseGram<T>> gram_;
    std::vector<bool> added_;
};

std::unique_ptr<GramOfColumns> gram_of_columns(const py::object& X, int threads) {
    return by_type(X, "X", [&](auto type) -> std::unique_ptr<GramOfColumns> {
        return std::make_unique<TypedGram<decltype(type)>>(X, threads);
    });
}

// H: p x p, or (starts, columns, values) of its rows
py::tuple minimize_model_of(const py::object& H, const py::array& h, double c, const py::array& g, double l1,
                            const py::array& w, double precision, double enough, Index rounds) {
    const Index p = w.size();
    QuadraticModel model{p, nullptr, nullptr, nullptr, memory<double>(h, "h", p, false), c, memory<double>(g, "g", p, false),
                         l1};
    double* to = memory<double>(w, "w", p, true);
    Index entries = p * p;
    if (py::isinstance<py::tuple>(H)) {
        const py::tuple parts = H.cast<py::tuple>();
        const py::array starts = array_of(parts[0], "H"), columns = array_of(parts[1], "H"), values = array_of(parts[2], "H");
        entries = values.size();
        model.starts = memory<std::int64_t>(starts, "H", p + 1, false);
        model.columns = memory<std::int32_t>(columns, "H", entries, false);
        model.H = memory<double>(values, "H", entries, false);
        bool inside = model.starts[0] == 0 && model.starts[p] == entries;
        for (Index j = 0; j < p; ++j) inside = inside && model.starts[j] <= model.starts[j + 1];
        for (Index e = 0; inside && e < entries; ++e) inside = model.columns[e] >= 0 && model.columns[e] < p;
        if (!inside) refuse("H", "expected the rows of a square matrix");
    } else {
        model.H = memory<double>(array_of(H, "H"), "H", entries, false);
    }
    std::vector<double> scratch(std::size_t(model_scratch * p));
    ModelFall found{};
    run(8.0 * double(entries) * 8, 1, [&](const std::atomic<bool>& cancel, int) {
        found = active().f64->minimize_model(model, precision, enough, rounds, to, scratch.data(), cancel);
    });
    return py::make_tuple(found.fall, found.left, found.converged);
}

void margins_of(const py::object& X, const py::array& w, const py::array& z, int threads) {
    by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        p.k = outputs(w, p.d);
        const T* from = memory<T>(w, "w", (p.d + 1) * p.k, false);
        T* to = memory<T>(z, "z", p.n * p.k, true);
        run(features.bytes(), threads,
            [&](const std::atomic<bool>& cancel, int members) { margins(p, from, to, Team{members, 0, &cancel}); });
        return 0;
    });
}

// One number for all parameters, or the array of those of the first n.
template <class T>
PerParameter<T> per_parameter(const py::object& value, const char* name, Index n) {
    if (py::isinstance<py::float_>(value)) return {T(value.cast<double>())};
    return {T(0), memory<T>(array_of(value, name), name, n, false)};
}

// What epoch and update are both told of the optimizer, the penalties and clipping.
struct Rule {
    std::string optimizer;
    std::vector<double> parameters;
    py::array coefficients;  // rows of what the optimizer needs in a step
    double l1, l2, decay;
    py::object factor, lower, upper;
    double min_norm, max_norm, clip_value;

    Rule(std::string optimizer, std::vector<double> parameters, py::array coefficients, double l1, double l2, double decay,
         py::object factor, py::object lower, py::object upper, double min_norm, double max_norm, double clip_value)
        : optimizer(std::move(optimizer)),
          parameters(std::move(parameters)),
          coefficients(std::move(coefficients)),
          l1(l1),
          l2(l2),
          decay(decay),
          factor(std::move(factor)),
          lower(std::move(lower)),
          upper(std::move(upper)),
          min_norm(min_norm),
          max_norm(max_norm),
          clip_value(clip_value) {}

    template <class T>
    Update<T> update(const Kernels<T>& kernels, const py::array& w, const py::array& slots, Index n, Index n_penalized) const {
        Update<T> u = update(kernels, slots, n, n_penalized);
        u.w = memory<T>(w, "w", n, true);
        return u;
    }
    // without its parameters
    template <class T>
    Update<T> update(const Kernels<T>& kernels, const py::array& slots, Index n, Index n_penalized) const {
        Update<T> u{};
        u.optimizer = &find(kernels.optimizers, kernels.n_optimizers, optimizer, parameters);
        u.n = n;
        u.n_penalized = std::min(std::max(n_penalized, Index(0)), n);
        u.step.l1 = l1;
        u.step.l2 = l2;
        u.step.decay = decay;
        u.step.clip_value = clip_value;
        u.step.factor = per_parameter<T>(factor, "factor", u.n_penalized);
        u.step.lower = per_parameter<T>(lower, "lower", u.n_penalized);
        u.step.upper = per_parameter<T>(upper, "upper", u.n_penalized);
        u.step.parameters = parameters.data();
        u.step.coefficients = memory<double>(coefficients, "coefficients", rows() * u.optimizer->n_coefficients, false);
        u.min_norm = min_norm;
        u.max_norm = max_norm;
        u.slots = memory<T>(slots, "slots", n * u.optimizer->n_slots, true);
        return u;
    }
    Index rows() const {
        if (coefficients.ndim() != 2 || coefficients.shape(0) < 1) refuse("coefficients", "expected rows, one a step");
        return coefficients.shape(0);
    }
};

// One of the models that an epoch trains; its arrays are written in place.
struct ModelArrays {
    py::array w, slots;
    py::object average;
    Rule rule;
    py::array rates, norms, losses;
    Index first_step, average_from;
    double mean_weight;
    Index held_out;  // the fold that it sees no rows of, -1 for none

    template <class T>
    Model<T> model(const Kernels<T>& kernels, Index size, Index n_penalized, Index steps) const {
        Model<T> m{};
        m.update = rule.update(kernels, w, slots, size, n_penalized);
        m.coefficients = m.update.step.coefficients;
        m.n_coefficients = rule.rows();
        m.mean_weight = mean_weight;
        m.rates = memory<double>(rates, "rates", steps, false);
        m.norms = memory<double>(norms, "norms", steps, true);
        m.losses = memory<double>(losses, "losses", steps, true);
        m.first_step = first_step;
        m.average_from = average.is_none() ? 0 : average_from;
        m.average = average.is_none() ? nullptr : memory<T>(array_of(average, "average"), "average", size, true);
        m.finite = true;
        return m;
    }
};

// Several models have one output each and share the targets.
py::list epoch_of(const py::object& X, const py::array& y, const py::object& weight, const py::object& fold,
                  const std::vector<const ModelArrays*>& arrays, const std::string& loss,
                  const std::vector<double>& loss_parameters, Index steps, double seconds, const py::object& keys, Index block,
                  Index batch, bool intercept, bool held_only, int threads, Index shards, Index first) {
    return by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        const Index n_models = Index(arrays.size());
        if (n_models < 1) refuse("models", "expected at least one");
        const Index k = outputs(arrays[0]->w, p.d);
        if (n_models > 1 && k > 1) refuse("models", "expected one output each where there are several");
        if (n_models > 1 && loss == "softmax") refuse("loss", "softmax is of all outputs, several models have one each");
        complete(features, y, weight, k, loss, loss_parameters, intercept);
        p.k = k * n_models;
        p.fold = optional_memory<T>(fold, "fold", p.n);
        std::vector<T> held_out(std::size_t(p.k + 2 * lanes_behind), T(-1));
        p.held_out = held_out.data();
        if (batch < 1) refuse("batch", "expected at least 1 row");
        if (block < 1 || block > std::max<Index>(p.n, 1)) refuse("block", "expected 1 to n rows");
        if (held_only && p.d >= std::numeric_limits<std::int32_t>::max())
            refuse("held_only", "expected fewer than 2^31 columns");
        const Index batches = (p.n + batch - 1) / batch;
        if (first < 0 || first > batches) refuse("first", "expected 0 to the number of batches");
        if (steps < 0 || steps > batches - first) refuse("steps", "expected at most the number of batches that are left");
        std::vector<Model<T>> models;
        for (const ModelArrays* a : arrays) {
            models.push_back(a->model<T>(*p.kernels, (p.d + 1) * k, p.d * k, steps));
            std::fill_n(held_out.begin() + (Index(models.size()) - 1) * k, k, T(a->held_out));
        }
        const Order order{optional_memory<std::uint32_t>(keys, "keys", 6), block};
        const Epoch<T> e{batch, steps, seconds, order.keys ? &order : nullptr, models.data(), n_models, held_only, first};
        // a step costs some hundred bytes' worth of time, however small its batch
        const double bytes = features.bytes() + double(steps) * 512;
        run(bytes, threads, [&](const std::atomic<bool>& cancel, int members) { epoch(p, e, Team{members, shards, &cancel}); });
        py::list results;
        for (const Model<T>& m : models) results.append(py::make_tuple(m.loss, m.steps, m.finite));
        return results;
    });
}

double update_of(const py::array& w, const py::array& g, const py::array& slots, const Rule& rule, double lr, Index n_penalized,
                 int threads) {
    return by_type(w, "w", [&](auto type) {
        using T = decltype(type);
        const Kernels<T>& kernels = table_of<T>(active());
        Update<T> u = rule.update(kernels, w, slots, w.size(), n_penalized);
        const T* gradient = memory<T>(g, "g", u.n, false);
        u.step.lr = lr;
        double norm = 0;
        const double bytes = threads == 1 ? 0 : double(u.n) * double(u.optimizer->n_slots + 2) * sizeof(T);
        run(bytes, threads, [&](const std::atomic<bool>&, int members) { norm = update(kernels, u, gradient, members); });
        return norm;
    });
}

// A group of tensors: rule, rate, factor of the gradients, slots of n numbers each, and a row a tensor: address of w, address
// of g, size, place among the n. The addresses are taken as they are: the tensors of other libraries are no arrays, and to
// make arrays of a few thousand of them would take longer than the step.
using TensorGroup = std::tuple<const Rule*, double, double, py::array, py::array>;

double update_tensors(const std::vector<TensorGroup>& list, int threads) {
    if (list.empty()) refuse("groups", "expected at least one");
    return by_type(std::get<3>(list[0]), "slots", [&](auto type) {
        using T = decltype(type);
        const Kernels<T>& kernels = table_of<T>(active());
        std::vector<Update<T>> groups;
        std::vector<Tensor<T>> tensors;
        double bytes = 0;
        for (const auto& [rule, lr, scale, slots, rows] : list) {
            if (slots.ndim() != 2) refuse("slots", "expected 2 dimensions");
            if (rows.ndim() != 2 || rows.shape(1) != 4) refuse("tensors", "expected 4 columns");
            Update<T> u = rule->template update<T>(kernels, slots, slots.shape(1), slots.shape(1));
            u.step.lr = lr;
            u.step.scale = scale;
            const Index* row = memory<Index>(rows, "tensors", rows.size(), false);
            for (Index i = 0; i < rows.shape(0); ++i, row += 4) {
                const Index n = row[2], offset = row[3];
                if (n < 0 || offset < 0 || offset > u.n - n) refuse("tensors", "expected places inside the slots");
                if (std::uintptr_t(row[0]) % alignof(T) || std::uintptr_t(row[1]) % alignof(T))
                    refuse("tensors", "expected aligned memory");
                tensors.push_back(
                    {Index(groups.size()), reinterpret_cast<T*>(row[0]), reinterpret_cast<const T*>(row[1]), n, offset});
                bytes += double(n) * double(u.optimizer->n_slots + 2) * sizeof(T);
            }
            groups.push_back(u);
        }
        double norm = 0;
        run(threads == 1 ? 0 : bytes, threads, [&](const std::atomic<bool>&, int members) {
            norm = update(kernels, groups.data(), Index(groups.size()), tensors.data(), Index(tensors.size()), members);
        });
        return norm;
    });
}

double norm_of(const py::array& a) {
    return by_type(a, "a", [&](auto type) {
        using T = decltype(type);
        const T* from = memory<T>(a, "a", a.size(), false);
        const Index n = a.size();
        py::gil_scoped_release nogil;
        return std::sqrt(table_of<T>(active()).sum_of_squares(from, n));
    });
}

double scale_to_norm(const py::array& g, double min_norm, double max_norm) {
    return by_type(g, "g", [&](auto type) {
        using T = decltype(type);
        T* to = memory<T>(g, "g", g.size(), true);
        const Index n = g.size();
        Update<T> range{};
        range.min_norm = min_norm;
        range.max_norm = max_norm;
        py::gil_scoped_release nogil;
        const double norm = std::sqrt(table_of<T>(active()).sum_of_squares(to, n)), scale = range.scale_of(norm);
        for (Index i = 0; scale != 1 && i < n; ++i) to[i] *= T(scale);
        return norm;
    });
}

Index find_non_finite_in(const py::array& a, int threads) {
    return by_type(a, "a", [&](auto type) -> Index {
        using T = decltype(type);
        if (std::uintptr_t(a.data()) % alignof(T)) refuse("a", "expected aligned memory");
        const T* x = static_cast<const T*>(a.data());
        const Index size = sizeof(T);
        if (a.ndim() != 1 && a.ndim() != 2) refuse("a", "expected 1 or 2 dimensions");
        if (a.ndim() == 1 && a.strides(0) != size && a.size() > 1) refuse("a", "expected contiguous memory");
        const Index n = a.ndim() == 2 ? a.shape(0) : 1, d = a.shape(a.ndim() - 1);
        const Index by_row = a.ndim() == 2 ? a.strides(0) : d * size, by_column = a.ndim() == 2 ? a.strides(1) : size;
        const bool rows = (by_column == size || d == 1) && by_row % size == 0;
        if (!rows && (by_row != size || by_column % size)) refuse("a", "expected unit stride along a row or along a column");
        const Kernels<T>& kernels = table_of<T>(active());
        Index found = -1;
        run(double(a.size()) * double(size), threads, [&](const std::atomic<bool>& cancel, int members) {
            const Team team{members, 0, &cancel};
            found = rows ? find_non_finite(kernels, x, n, d, by_row / size, false, team)
                         : find_non_finite(kernels, x, d, n, by_column / size, true, team);
        });
        return found;
    });
}

void mean_squares_of(const py::object& X, const py::object& weight, const py::array& out, int threads) {
    by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        if (p.layout != Layout::csr) refuse("X", "expected CsrRows");
        p.k = 1;
        p.weight = optional_memory<T>(weight, "weight", p.n);
        double* to = memory<double>(out, "out", p.d, true);
        run(features.bytes(), threads,
            [&](const std::atomic<bool>& cancel, int members) { mean_squares_csr(p, to, Team{members, 0, &cancel}); });
        return 0;
    });
}

void moments_of(const py::object& X, const py::object& weight, const py::array& mean, const py::array& variance, int threads) {
    by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        Problem<T>& p = features.problem;
        p.k = 1;
        p.weight = optional_memory<T>(weight, "weight", p.n);
        double *to = memory<double>(mean, "mean", p.d, true), *spread = memory<double>(variance, "variance", p.d, true);
        run(features.bytes(), threads,
            [&](const std::atomic<bool>& cancel, int members) { moments(p, to, spread, Team{members, 0, &cancel}); });
        return 0;
    });
}

template <class T>
const Problem<T>& dense_rows(Features<T>& features) {
    Problem<T>& p = features.problem;
    p.k = 1;
    if (p.layout != Layout::rows || p.scaling.factor || p.d >= Index(1) << 31)
        refuse("X", "expected rows of fewer than 2^31 columns");
    return p;
}

void count_non_zeros_of(const py::object& X, const py::array& starts, int threads) {
    by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        const Problem<T>& p = dense_rows(features);
        std::int64_t* to = memory<std::int64_t>(starts, "starts", p.n + 1, true);
        run(features.bytes(), threads,
            [&](const std::atomic<bool>& cancel, int members) { count_non_zeros(p, to, Team{members, 0, &cancel}); });
        return 0;
    });
}

void pick_non_zeros_of(const py::object& X, const py::array& starts, const py::array& x, const py::array& columns,
                       int threads) {
    by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        const Problem<T>& p = dense_rows(features);
        const std::int64_t* from = memory<std::int64_t>(starts, "starts", p.n + 1, false);
        T* numbers = memory<T>(x, "x", from[p.n], true);
        std::int32_t* places = memory<std::int32_t>(columns, "columns", from[p.n], true);
        run(features.bytes(), threads, [&](const std::atomic<bool>& cancel, int members) {
            pick_non_zeros(p, from, numbers, places, Team{members, 0, &cancel});
        });
        return 0;
    });
}

// (what is wrong with X, where): (None, -1), or a name of CsrFault and a row
py::tuple check_csr_of(const py::object& X, bool finite, int threads) {
    if (!is_csr(X)) refuse("X", "expected CsrRows");
    return by_type(X, "X", [&](auto type) {
        using T = decltype(type);
        Features<T> features(X);
        features.problem.k = 1;
        CsrCheck found{};
        run(features.bytes(), threads, [&](const std::atomic<bool>& cancel, int members) {
            found = check_csr(features.problem, finite, Team{members, 0, &cancel});
        });
        const char* const names[] = {nullptr, "indptr", "index", "value", "order"};
        return py::make_tuple(names[int(found.fault)], found.row);
    });
}

Index cholesky(const py::array& A, double smallest) {
    const Index n = A.shape(0);
    double* a = memory<double>(A, "A", n * n, true);
    Index failed = -1;
    run(double(n) * double(n) * double(n) / 3, 1,
        [&](const std::atomic<bool>& cancel, int) { failed = active().f64->cholesky(a, n, smallest, cancel); });
    return failed;
}

void cholesky_solve(const py::array& L, const py::array& b) {
    const Index n = L.shape(0);
    const double* l = memory<double>(L, "L", n * n, false);
    const Index k = b.ndim() == 2 ? b.shape(1) : 1;
    if (k != 1 && (k % 8 || k == 0)) refuse("b", "expected one column or a multiple of 8, got " + std::to_string(k));
    double* x = memory<double>(b, "b", n * k, true);
    py::gil_scoped_release nogil;
    active().f64->cholesky_solve(l, n, x, k);
}

py::array_t<Index> order_rows(Index n, const py::array& keys, Index first, Index count, Index block) {
    if (block < 1 || block > std::max<Index>(n, 1)) refuse("block", "expected 1 to n rows");
    if (first < 0 || count < 0 || first + count > n) refuse("first", "expected positions in [0, n)");
    const std::uint32_t* k = memory<std::uint32_t>(keys, "keys", 6, false);
    py::array_t<Index> rows(count);
    Index* out = rows.mutable_data();
    py::gil_scoped_release nogil;
    active().f32->order_rows(n, {k, block}, first, count, out);
    return rows;
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
    m.doc() = "Native kernels of gdfast. Private: use gdfast.ops.";
    py::class_<WorkerScope>(m, "Worker", "Context manager: one native thread for all parallel calls of this Python thread.")
        .def(py::init<bool>(), py::kw_only(), py::arg("kept") = false)
        .def("__enter__", [](WorkerScope& scope) { scope.enter(); })
        .def("__exit__", [](WorkerScope& scope, const py::args&) { scope.exit(); });
    m.def("gradient", gradient_of, py::arg("X"), py::arg("y").noconvert(), py::arg("weight"), py::arg("w").noconvert(),
          py::arg("g").noconvert(), py::arg("H"), py::arg("loss"), py::arg("parameters"), py::arg("intercept"),
          py::arg("threads"), py::arg("shards") = 0,
          "Sum of the weighted losses; g (float64) and, unless None, H become sums too.");
    m.def("hessian_product", hessian_product_of, py::arg("X"), py::arg("y").noconvert(), py::arg("weight"),
          py::arg("w").noconvert(), py::arg("p").noconvert(), py::arg("Hp").noconvert(), py::arg("loss"), py::arg("parameters"),
          py::arg("intercept"), py::arg("threads"), "Hp (float64) becomes the Hessian of the summed weighted losses times p.");
    m.def("gradient_at", gradient_at_of, py::arg("X"), py::arg("y").noconvert(), py::arg("weight"), py::arg("z").noconvert(),
          py::arg("g").noconvert(), py::arg("h").noconvert(), py::arg("loss"), py::arg("parameters"), py::arg("intercept"),
          py::arg("threads"), "Sum of the weighted losses at margins z, their gradient g (float64) and curvatures h.");
    m.def("conjugate_gradients", conjugate_gradients_of, py::arg("X"), py::arg("h").noconvert(), py::arg("g").noconvert(),
          py::arg("diagonal").noconvert(), py::arg("total"), py::arg("l2"), py::arg("share"), py::arg("most"),
          py::arg("s").noconvert(), py::arg("margins").noconvert(), py::arg("intercept"), py::arg("threads"),
          "(X' diag(h) X / total + l2) s = -g but for what is not worth it, margins = X s: (fall of the model, products).");
    m.def("curvatures", curvatures_of, py::arg("X"), py::arg("y").noconvert(), py::arg("weight"), py::arg("w").noconvert(),
          py::arg("h").noconvert(), py::arg("loss"), py::arg("parameters"), py::arg("threads"),
          "h = weight times the curvature of the loss at the margins of each row.");
    m.def("gram", gram_of, py::arg("X"), py::arg("columns").noconvert(), py::arg("h").noconvert(), py::arg("H").noconvert(),
          py::arg("intercept"), py::arg("threads"), "H (float64) becomes A' diag(h) A, A = some columns of dense X and ones.");
    py::class_<GramOfColumns>(m, "SparseGram", "scale A' diag(h) A + ridge, A = more and more columns of CsrRows.")
        .def(py::init(&gram_of_columns), py::arg("X"), py::arg("threads"))
        .def("set", &GramOfColumns::set, py::arg("h").noconvert(), py::arg("scale"), py::arg("ridge"),
             "Begins, with no column.")
        .def("add", &GramOfColumns::add, py::arg("columns").noconvert(), py::arg("threads"), "More columns, behind the others.")
        .def("matrix", &GramOfColumns::matrix, "(starts, columns, values) of its rows, and scale A'h.");
    m.def("minimize_model", minimize_model_of, py::arg("H"), py::arg("h").noconvert(), py::arg("c"), py::arg("g").noconvert(),
          py::arg("l1"), py::arg("w").noconvert(), py::arg("precision"), py::arg("enough"), py::arg("rounds"),
          "w becomes what minimises a quadratic model with an L1 part: (fall, fall of the last sweep, converged).");
    m.def("margins", margins_of, py::arg("X"), py::arg("w").noconvert(), py::arg("z").noconvert(), py::arg("threads"),
          "z = X w + b");
    py::class_<Rule>(m, "Rule", "What a step is made of: optimizer, penalties, bounds and clipping, as plain values.")
        .def(py::init<std::string, std::vector<double>, py::array, double, double, double, py::object, py::object, py::object,
                      double, double, double>(),
             py::kw_only(), py::arg("optimizer"), py::arg("parameters"), py::arg("coefficients").noconvert(), py::arg("l1"),
             py::arg("l2"), py::arg("decay"), py::arg("factor"), py::arg("lower"), py::arg("upper"), py::arg("min_norm"),
             py::arg("max_norm"), py::arg("clip_value"));
    py::class_<ModelArrays>(m, "Model", "One of the models that an epoch trains, all arrays in place.")
        .def(py::init([](py::array w, py::array slots, py::object average, Rule rule, py::array rates, py::array norms,
                         py::array losses, Index first_step, Index average_from, double mean_weight, Index held_out) {
                 return ModelArrays{std::move(w),     std::move(slots),  std::move(average), std::move(rule), std::move(rates),
                                    std::move(norms), std::move(losses), first_step,         average_from,    mean_weight,
                                    held_out};
             }),
             py::kw_only(), py::arg("w").noconvert(), py::arg("slots").noconvert(), py::arg("average"), py::arg("rule"),
             py::arg("rates").noconvert(), py::arg("norms").noconvert(), py::arg("losses").noconvert(), py::arg("first_step"),
             py::arg("average_from"), py::arg("mean_weight"), py::arg("held_out") = -1);
    m.def(
        "epoch", epoch_of, py::kw_only(), py::arg("X"), py::arg("y").noconvert(), py::arg("weight"), py::arg("fold"),
        py::arg("models"), py::arg("loss"), py::arg("loss_parameters"), py::arg("steps"), py::arg("seconds"),
        py::arg("keys").noconvert(), py::arg("block"), py::arg("batch"), py::arg("intercept"), py::arg("held_only"),
        py::arg("threads"), py::arg("shards") = 0, py::arg("first") = 0,
        "Steps of an epoch of mini-batches, from the batch `first` on: (sum of losses, steps made, all finite) of each model.");
    m.def("update", update_of, py::kw_only(), py::arg("w").noconvert(), py::arg("g").noconvert(), py::arg("slots").noconvert(),
          py::arg("rule"), py::arg("lr"), py::arg("n_penalized"), py::arg("threads"),
          "One fused optimizer step, in place; the norm of g where clipping asks for it, else 0.");
    m.def("update_tensors", update_tensors, py::arg("groups"), py::arg("threads"),
          "One fused step of many tensors, groups of (rule, lr, scale, slots, rows of addresses); the norm as in update.");
    m.def("norm", norm_of, py::arg("a").noconvert(), "Euclidean norm, summed in float64.");
    m.def("scale_to_norm", scale_to_norm, py::arg("g").noconvert(), py::arg("min_norm"), py::arg("max_norm"),
          "g, scaled in place to a norm in that range; returns |g| before.");
    m.def("find_non_finite", find_non_finite_in, py::arg("a").noconvert(), py::arg("threads") = 1,
          "Row-major position of the first NaN or infinity, -1 where there is none.");
    m.def("mean_squares", mean_squares_of, py::arg("X"), py::arg("weight"), py::arg("out").noconvert(), py::arg("threads") = 1,
          "The weighted mean (float64) of the squares of every column of CsrRows.");
    m.def("moments", moments_of, py::arg("X"), py::arg("weight"), py::arg("mean").noconvert(), py::arg("variance").noconvert(),
          py::arg("threads") = 1, "The weighted mean and variance (float64) of every column.");
    m.def("check_csr", check_csr_of, py::arg("X"), py::arg("finite"), py::arg("threads") = 1,
          "The first row of CsrRows that is not right: (what, row), (None, -1) where all are.");
    m.def("count_non_zeros", count_non_zeros_of, py::arg("X"), py::arg("starts").noconvert(), py::arg("threads") = 1,
          "starts (n + 1, int64) of the rows of a dense X if only its non-zeros were kept.");
    m.def("pick_non_zeros", pick_non_zeros_of, py::arg("X"), py::arg("starts").noconvert(), py::arg("x").noconvert(),
          py::arg("columns").noconvert(), py::arg("threads") = 1, "The non-zeros of a dense X and their columns (int32).");
    m.def("cholesky", cholesky, py::arg("A").noconvert(), py::arg("smallest"),
          "A = L L' in the lower triangle; -1, or the column that failed.");
    m.def("cholesky_solve", cholesky_solve, py::arg("L").noconvert(), py::arg("b").noconvert(),
          "b (n) or (n, k), k a multiple of 8, becomes the solution of L L' x = b.");
    m.def("order_rows", order_rows, py::arg("n"), py::arg("keys").noconvert(), py::arg("first"), py::arg("count"),
          py::arg("block") = 1,
          "Rows at positions first, first + 1, ... of the order of n rows, in blocks, given by six uint32 keys.");
    m.def(
        "shards_of",
        [](Index rows, const py::object& X, Index k) {
            return by_type(X, "X", [&](auto type) {
                Features<decltype(type)> features(X);
                features.problem.k = k;
                return shards_of(features.problem, rows);
            });
        },
        py::arg("rows"), py::arg("X"), py::arg("k"), "How many parts a batch of rows of X is summed in.");
    m.def(
        "losses",
        [] {
            std::vector<std::pair<std::string, int>> list;
            const Kernels<float>& kernels = *active().f32;
            for (int i = 0; i < kernels.n_losses; ++i)
                list.emplace_back(kernels.losses[i].name, kernels.losses[i].n_parameters);
            return list;
        },
        "(name, number of parameters) of every native loss.");
    m.def(
        "optimizers",
        [] {
            std::vector<std::tuple<std::string, int, int, int>> list;
            const Kernels<float>& kernels = *active().f32;
            for (int i = 0; i < kernels.n_optimizers; ++i) {
                const OptimizerKernel<float>& o = kernels.optimizers[i];
                list.emplace_back(o.name, o.n_slots, o.n_parameters, o.n_coefficients);
            }
            return list;
        },
        "(name, number of slots, of parameters, of coefficients a step) of every native optimizer.");
    m.def(
        "instruction_sets",
        [] {
            std::vector<std::string> names;
            for (const InstructionSet& isa : available()) names.emplace_back(isa.name);
            return names;
        },
        "Those this machine can run, best first.");
    m.def("instruction_set", [] { return std::string(active().name); }, "The one in use.");
    m.def("use_instruction_set", [](const std::string& name) { use(name); }, py::arg("name"), "Force one by name.");
#ifdef _OPENMP
    m.attr("openmp") = true;
    m.def("max_threads", [] { return omp_get_max_threads(); }, "What OpenMP allows the calling thread.");
    m.def("in_parallel", [] { return omp_in_parallel() != 0; }, "Is the caller inside a parallel region?");
#else
    m.attr("openmp") = false;
    m.def("max_threads", [] { return 1; }, "What OpenMP allows the calling thread.");
    m.def("in_parallel", [] { return false; }, "Is the caller inside a parallel region?");
#endif
}
